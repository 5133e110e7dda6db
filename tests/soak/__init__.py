"""Long-running tests: kills, faults during saves, and overload. Run them with `make soak`."""
