"""Training engine: trainer, loop, step, losses, optimizer, schedules, validation and resume state; no data, no run files."""
