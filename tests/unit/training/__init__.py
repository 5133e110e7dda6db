"""Unit tests of training."""
