"""ASGI middleware and the HTTP protocol's timeouts."""
