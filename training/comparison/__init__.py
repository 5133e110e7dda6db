"""Comparison of checkpoints: one evaluation pass over the data, costs, statistics, figures and the report page."""
