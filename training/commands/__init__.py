"""One module for each command: flags and exit codes only. What commands share is elsewhere."""
