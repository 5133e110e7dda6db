"""Tests that run commands and train networks."""
