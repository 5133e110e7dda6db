"""Tests of the service through its HTTP interface."""
