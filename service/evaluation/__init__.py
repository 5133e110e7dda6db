"""Evaluation jobs of served models: management, files and execution."""
