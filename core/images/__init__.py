"""Conversion between encoded images and pixels: decode, sanitize, resize and encode. Nothing here runs a model."""
