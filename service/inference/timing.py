"""Timing: what each stage of a reply took, for the Server-Timing header and the metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

STAGES = ("decode", "queue", "forward", "label", "encode")


class Timing:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}

    def add(self, stage: str, seconds: float) -> None:
        """Add to a stage."""
        self.stages[stage] = self.stages.get(stage, 0.0) + seconds

    @contextmanager
    def of(self, stage: str, less: str = "") -> Iterator[None]:
        """Add what happens meanwhile to a stage, less what another one inside it takes."""
        began, other = time.perf_counter(), self.stages.get(less, 0.0)
        yield
        inside = self.stages.get(less, 0.0) - other
        self.add(stage, time.perf_counter() - began - inside)

    def header(self) -> str:
        """The header's value, in milliseconds (W3C Server Timing)."""
        known = (stage for stage in STAGES if stage in self.stages)
        return ", ".join(f"{stage};dur={1000 * self.stages[stage]:.2f}" for stage in known)
