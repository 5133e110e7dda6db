"""Tests that run the documentation's commands and compare its tables with the code."""
