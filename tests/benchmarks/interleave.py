"""Compare pieces of work fairly: processes that take turns in one run, and medians over the repeats."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence

from tests.support.paths import ROOT


class WorkerProcess:
    """A process of `training_worker.py` that holds its work ready and runs it once per request."""

    def __init__(self, *arguments: object, environment: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.training_worker", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
        self.peak_rss = 0  # bytes, as of the last "run"

    def request(self, command: str = "run") -> float:
        """Send a command and return its number: the seconds of "run", or the measurement of another command."""
        assert self.process.stdin and self.process.stdout
        print(command, file=self.process.stdin, flush=True)
        response = self.process.stdout.readline().split()
        assert response, f"the worker exited: {self.process.args}"
        if len(response) > 1:
            self.peak_rss = int(response[1]) * 1024
        return float(response[0])

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def interleaved_medians(workers: Sequence[WorkerProcess], repeats: int) -> list[float]:
    """Run all workers in turns and return the median seconds of each; the first turn is a warm-up."""
    for worker in workers:
        worker.request()
    turns = [[worker.request() for worker in workers] for _ in range(repeats)]
    return [statistics.median(seconds) for seconds in zip(*turns, strict=True)]
