"""Metrics, confidence intervals, the evaluation of a dataset and its report. No files are read or written."""
