"""`python -m training` that tells every step in the file $STEPS and starts $PROCESSES processes on the CPU."""

from __future__ import annotations

import os
import sys

from training import launcher, step, train
from training.__main__ import main
from training.loading import Batch

log = os.open(os.environ["STEPS"], os.O_APPEND | os.O_CREAT | os.O_WRONLY)
original = step.Step.__call__


def traced(self: step.Step, batch: Batch, sums: step.Sums) -> None:
    original(self, batch, sums)
    os.write(log, f"{self.world.rank} {os.getpid()}\n".encode())


step.Step.__call__ = traced  # type: ignore[method-assign]
launcher.PROGRAM = (sys.executable, __file__)
train.processes_to_launch = lambda gpus: 1 if "RANK" in os.environ else int(os.environ["PROCESSES"])  # type: ignore[assignment]

if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
