"""Tests that run the documentation's commands."""
