"""Training, evaluation and prediction from the command line: `python -m training COMMAND`."""
