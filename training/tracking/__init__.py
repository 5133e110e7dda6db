"""Tracking of a training run: run directory, lock, history, curves, TensorBoard log and terminal output."""
