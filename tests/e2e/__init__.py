"""Tests of whole processes: browser, containers, several hosts, documentation."""
