"""Training, evaluation and prediction from the command line: `python -m training COMMAND`."""

import os

LAUNCHED = os.getppid()  # Read before torch is imported: that takes seconds, in which the launcher could die.
