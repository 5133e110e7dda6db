"""Metrics, confidence intervals and the evaluation report. No input or output of files."""
