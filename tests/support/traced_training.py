"""`python -m training` for tests: trace its progress to a file and start several ranks on the CPU.

Environment variables:
    TRACE_FILE: file that gets a line `EVENT RANK PID` for each event. Events: "steps" after a training step,
        "validation" before a validation batch, "save" before the resume state is saved.
    NUM_PROCESSES: number of ranks that the launcher starts.
    SLOW_EVENT: event to slow down: the second "steps" never returns; "validation" and "save" take a second each.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from training.__main__ import main
from training.distributed import launcher
from training.engine import job
from training.engine.step import TrainStep
from training.engine.validation import PreresizedSegmenter
from training.tracking.run_dir import RunDir

trace_fd = os.open(os.environ["TRACE_FILE"], os.O_APPEND | os.O_CREAT | os.O_WRONLY)
rank = os.environ.get("RANK", "0")


def trace(owner: type, name: str, event: str, before: bool) -> None:
    """Replace the method `owner.name` by one that also traces `event`, before or after the original runs."""
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def traced(*args: object) -> object:
        nonlocal calls
        calls += 1
        result = None if before else original(*args)
        os.write(trace_fd, f"{event} {rank} {os.getpid()}\n".encode())
        if os.environ.get("SLOW_EVENT") == event:
            time.sleep(1 if before else 1000 * (calls == 2))
        return original(*args) if before else result

    setattr(owner, name, traced)


trace(TrainStep, "__call__", "steps", before=False)
trace(PreresizedSegmenter, "__call__", "validation", before=True)
trace(RunDir, "save_resume", "save", before=True)
launcher.PROGRAM = (sys.executable, __file__)
job.processes_to_launch = lambda gpus: 1 if "RANK" in os.environ else int(os.environ["NUM_PROCESSES"])  # type: ignore[assignment]

if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
