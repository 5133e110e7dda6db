"""In-process tests of several modules together."""
