"""Tests that start, kill and restart whole processes: training, launchers, several ranks, the service."""
