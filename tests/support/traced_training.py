"""`python -m training` that tells what it does in the file $TRACE and starts $PROCESSES processes on the CPU.

With $SLOW it takes its time: `steps` never ends the second step, `validation` and `save` take a second each.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from training.__main__ import main
from training.commands import train
from training.distributed.context import launcher
from training.engine.step import Step
from training.engine.validation import FittedSegmenter
from training.tracking.run_dir import RunFolder

log = os.open(os.environ["TRACE"], os.O_APPEND | os.O_CREAT | os.O_WRONLY)
rank = os.environ.get("RANK", "0")


def trace(owner: type, name: str, what: str, told_first: bool) -> None:
    original: Callable[..., Any] = getattr(owner, name)
    calls = [0]

    def traced(*arguments: object) -> object:
        calls[0] += 1
        result = None if told_first else original(*arguments)
        os.write(log, f"{what} {rank} {os.getpid()}\n".encode())
        if os.environ.get("SLOW") == what:
            time.sleep(1 if told_first else 1000 * (calls[0] == 2))
        return original(*arguments) if told_first else result

    setattr(owner, name, traced)


trace(Step, "__call__", "steps", told_first=False)
trace(FittedSegmenter, "__call__", "validation", told_first=True)
trace(RunFolder, "save_resume", "save", told_first=True)
launcher.PROGRAM = (sys.executable, __file__)
train.processes_to_launch = lambda gpus: 1 if "RANK" in os.environ else int(os.environ["PROCESSES"])  # type: ignore[assignment]

if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
