"""Evaluation jobs: manager, store on disk, runner."""
