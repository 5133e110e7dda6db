"""Tests of whole processes: web page in a browser, containers, several hosts, and the documentation's commands."""
