"""Which results of earlier runs are still those that this one would make: a line for each in a file beside them."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from training.prediction.jobs import Job

NAME, ALL = ".predict.jsonl", ".predict*.jsonl"
Mark = list[Any]  # what made a result, and size and time of the file that it was made from
Told = dict[str, Any]  # of a file, for --json


class Done:
    """What lies in a folder, and by what it was made. Of several processes each appends to a file of its own: on a drive of
    the network their lines would fall into each other."""

    def __init__(self, out: Path, made_by: dict[str, Any], rank: int = 0) -> None:
        """Read what there is; `made_by` is everything that makes a difference to a result."""
        self.out = out
        self._file = out / (f".predict.{rank}.jsonl" if rank else NAME)
        self._maker = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:16]
        self._known: dict[str, tuple[Mark, Told]] = {}
        self._newest = 0.0  # what is noted now is later than all of these, whatever another machine's clock says
        notes: list[tuple[float, list[str], tuple[Mark, Told]]] = []
        for path in out.glob(ALL):
            for line in path.read_text().splitlines():
                with suppress(ValueError, TypeError, KeyError):  # a line that was cut off
                    note = json.loads(line)
                    notes.append((float(note.get("at", 0.0)), note["targets"], (note["mark"], note["told"])))
        for at, targets, known in sorted(notes, key=lambda note: note[0]):
            self._known |= dict.fromkeys(targets, known)
            self._newest = at

    def mark(self, job: Job) -> Mark:
        """To be taken before the file is read: it may be written to meanwhile. Raises OSError."""
        status = job.source.stat()
        return [self._maker, status.st_size, status.st_mtime_ns]

    def told(self, job: Job) -> Told | None:
        """What was told of a job when it was done, where all of it is there, made from the same file in the same way."""
        try:
            mark = self.mark(job)
        except OSError:  # whoever reads the file tells so
            return None
        known = [self._known.get(self._name(target)) for target in job.targets if target.is_file()]
        same = len(known) == len(job.targets) and all(each and each[0] == mark for each in known)
        return known[0][1] if same and known[0] else None

    def otherwise(self, job: Job) -> bool:
        """Whether a result stands there that something else made: another checkpoint, or another way."""
        known = [self._known.get(self._name(target)) for target in job.targets if target.is_file()]
        return any(each and each[0] and each[0][0] != self._maker for each in known)

    def begin(self, job: Job) -> None:
        """Note that what lies there will be replaced, in case it is not brought to its end."""
        if any(self._name(target) in self._known for target in job.targets):
            self.add(job, [], {})

    def add(self, job: Job, mark: Mark, told: Told) -> None:
        """Note that a job is done."""
        at = max(time.time(), self._newest + 1e-3)
        line = json.dumps({"targets": [self._name(target) for target in job.targets], "mark": mark, "told": told, "at": at})
        with self._file.open("a") as file:
            file.write(f"\n{line}")  # first, since the line before may have been cut off

    def _name(self, target: Path) -> str:
        return target.relative_to(self.out).as_posix()
