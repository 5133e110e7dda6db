"""Durations of the stages of a request, for the Server-Timing header and the metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

STAGES = ("decode", "queue", "forward", "label", "encode")


class Timing:
    """Seconds spent in each stage of one request."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}

    def add(self, stage: str, seconds: float) -> None:
        """Add a duration to a stage."""
        self.stages[stage] = self.stages.get(stage, 0.0) + seconds

    def add_all(self, other: Timing) -> None:
        """Add the durations of another image of the same request."""
        for stage, seconds in other.stages.items():
            self.add(stage, seconds)

    @contextmanager
    def measure(self, stage: str, exclude: str = "") -> Iterator[None]:
        """Add the duration of the block to a stage, without the time that the block adds to the stage `exclude`."""
        start, excluded_before = time.perf_counter(), self.stages.get(exclude, 0.0)
        yield
        excluded = self.stages.get(exclude, 0.0) - excluded_before
        self.add(stage, time.perf_counter() - start - excluded)

    def header(self) -> str:
        """Return the value of the Server-Timing header (W3C), in milliseconds."""
        measured = (stage for stage in STAGES if stage in self.stages)
        return ", ".join(f"{stage};dur={1000 * self.stages[stage]:.2f}" for stage in measured)
