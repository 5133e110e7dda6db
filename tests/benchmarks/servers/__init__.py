"""Naive services for the same checkpoint, the baselines of the serving benchmarks, and a launcher for all services."""
