"""Encoded images to pixels and back: decoding, sanitizing, resizing, encoding. No inference."""
