"""ASGI middleware, and timeouts of the HTTP protocol."""
