"""Which results of earlier runs are still those that this one would make: a line for each in a file beside them."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from training.plan import Job

NAME = ".predict.jsonl"


class Done:
    """What lies in a folder, and by what it was made. Lines are appended, so that several processes can share it."""

    def __init__(self, out: Path, made_by: dict[str, Any]) -> None:
        """Read what there is; `made_by` is everything that makes a difference to a result."""
        self.out = out
        self._maker = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:16]
        self._known: dict[str, list[Any]] = {}
        with suppress(FileNotFoundError):
            for line in (out / NAME).read_text().splitlines():
                with suppress(ValueError):  # a line that was cut off
                    self._known |= json.loads(line)

    def has(self, job: Job) -> bool:
        """Whether everything of a job is there, made from the same file in the same way."""
        return all(target.is_file() and self._known.get(self._name(target)) == self._mark(job) for target in job.targets)

    def add(self, job: Job) -> None:
        """Note that a job is done."""
        line = json.dumps({self._name(target): self._mark(job) for target in job.targets})
        with (self.out / NAME).open("a") as file:
            file.write(f"\n{line}")  # first, since the line before may have been cut off

    def _mark(self, job: Job) -> list[Any]:
        told = job.source.stat()
        return [self._maker, told.st_size, told.st_mtime_ns]

    def _name(self, target: Path) -> str:
        return target.relative_to(self.out).as_posix()
