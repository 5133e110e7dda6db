"""Training, evaluation and prediction from the command line: `python -m training COMMAND`."""

import os

PARENT = os.getppid()  # asked before torch is imported, which takes seconds in which a launcher may die
