"""Tests on several hosts (network namespaces)."""
