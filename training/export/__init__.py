"""Exports of a checkpoint to other formats."""
