"""Slow tests: whole processes, exported models and videos, the web page in a browser, containers, hosts, documentation."""
