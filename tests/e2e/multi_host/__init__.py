"""Tests of training, evaluation, prediction and serving on several hosts, which are network namespaces of one computer."""
