"""Checkpoint and exported-model files: reading, writing, verifying. No network code."""
