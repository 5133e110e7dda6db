"""What trains a network: the trainer, its loop and step, losses, schedules, resume state."""
