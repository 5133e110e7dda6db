"""What training and serving must agree on: labels, models, preprocessing, metrics, checkpoints and masks."""

__version__ = "0.1.0"
