"""Long-running tests: kills, crashes, overload."""
