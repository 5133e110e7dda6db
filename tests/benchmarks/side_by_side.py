"""Times pieces of work against each other in one run: processes that take turns, medians of interleaved repeats."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Worker:
    """A process of `worker.py` that works only while it is asked to."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.worker", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.peak = 0  # bytes of memory

    def ask(self, what: str = "go") -> float:
        assert self.process.stdin and self.process.stdout
        print(what, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline().split()
        assert answer, "a worker died"
        if len(answer) > 1:
            self.peak = int(answer[1]) * 1024
        return float(answer[0])

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def interleaved(workers: Sequence[Worker], repeats: int) -> list[float]:
    """Median seconds of each, after one turn each that is not counted."""
    for worker in workers:
        worker.ask()
    turns = [[worker.ask() for worker in workers] for _ in range(repeats)]
    return [statistics.median(times) for times in zip(*turns, strict=True)]
