"""Benchmarks of training, the service and the web page; run them with `make bench`."""
