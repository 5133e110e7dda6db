"""Run `python -m training train` in subprocesses, and follow its progress through a trace file."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.paths import ROOT
from training.synthetic.dataset import write_scene

EPOCHS, STEPS_PER_EPOCH = 3, 6
BATCH_SIZE = 4
DEFAULT_FLAGS: tuple[object, ...] = (
    *("--model", "ddunet", "--width", 2, "--size", 32, 64, "--batch-size", BATCH_SIZE, "--epochs", EPOCHS),
    *("--checkpoint-every", 2, "--ema", 0.9, "--schedule", "cosine", "--warmup", 0.5, "--clip", 5, "--timeout", 60),
)


def write_scenes(directory: Path) -> Path:
    """Write a data set with STEPS_PER_EPOCH batches of training samples and five validation samples."""
    for split, count in (("train", BATCH_SIZE * STEPS_PER_EPOCH), ("val", 5)):
        for index in range(count):
            write_scene(directory, split, index, (32, 64), seed=0)
    return directory


def is_running(pid: int) -> bool:
    """Return whether a process is running; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass
class TrainingRun:
    """A training run in a directory, started as many times as the test needs.

    Attributes:
        data: data set, the value of `--data`.
        run_dir: run directory, the value of `--run`.
        processes: number of ranks that the launcher starts on the CPU.
        flags: further flags of the `train` command.
        slow_event: event that `tests.support.traced_training` slows down: "steps", "validation", "save", or none.
        program: command that runs the training command line.
        outputs: standard output and error of each finished start.
        auto_resume: pass `--resume` if the run directory holds a run. A job of torchrun recognizes its own run without it.
    """

    data: Path
    run_dir: Path
    processes: int = 1
    flags: tuple[object, ...] = ()
    slow_event: str = ""
    program: tuple[str, ...] = (sys.executable, "-m", "tests.support.traced_training")
    outputs: list[str] = field(default_factory=list)
    auto_resume: bool = True

    @property
    def trace_file(self) -> Path:
        return self.run_dir.with_suffix(".trace")

    def count_events(self, rank: int = 0, event: str = "steps") -> int:
        """Return how many events a rank has traced over all starts, repeated steps included."""
        lines = self.trace_file.read_text().splitlines() if self.trace_file.exists() else []
        return sum(line.split()[:2] == [event, str(rank)] for line in lines)

    def start(self) -> subprocess.Popen[str]:
        """Start the run, or resume it if its directory exists, without waiting for it."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TRACE_FILE": str(self.trace_file),
            "SLOW_EVENT": self.slow_event,
            "NUM_PROCESSES": str(self.processes),
            "OMP_NUM_THREADS": str(max(1, 2 // self.processes)),
        }
        command = [*self.program, "train", "--data", self.data, "--run", self.run_dir, *DEFAULT_FLAGS, *self.flags]
        if self.auto_resume and (self.run_dir / "config.json").exists():
            command.append("--resume")
        return subprocess.Popen(
            [*map(str, command)], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def finish(self, process: subprocess.Popen[str], timeout: float = 120) -> int:
        """Wait until a started process exits, keep its output and return its exit code."""
        self.outputs.append(process.communicate(timeout=timeout)[0])
        return process.returncode

    def run_to_completion(self) -> None:
        """Start or resume the run and wait until it succeeds."""
        process = self.start()
        assert self.finish(process) == 0, self.outputs[-1]

    def wait_for_events(self, process: subprocess.Popen[str], count: int, rank: int = 0, event: str = "steps") -> bool:
        """Wait until a rank has traced `count` more events; return False if the run ends before that."""
        target = self.count_events(rank, event) + count
        while self.count_events(rank, event) < target:
            if process.poll() is not None:
                return False
            time.sleep(0.001)
        return True

    def worker_pids(self, process: subprocess.Popen[str]) -> list[int]:
        """Return the process ids of the ranks that a launcher has started and that have not been reaped."""
        return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
