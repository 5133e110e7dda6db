"""The manifest of an output directory: which results exist, and from what and how each was made.

It is a file of JSON lines, to which each finished result is appended.
"""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from training.prediction.jobs import Job

MANIFEST_FILE, MANIFEST_GLOB = ".predict.jsonl", ".predict*.jsonl"
Fingerprint = list[Any]  # digest of the settings; size and modification time of the source, or its digest
ResultInfo = dict[str, Any]  # of one file, for --json


class PredictionManifest:
    """The results in an output directory.

    Each of several ranks appends to its own file: on a network drive their lines would overwrite each other.
    """

    def __init__(self, out: Path, settings: dict[str, Any], rank: int = 0) -> None:
        """Read the existing manifest files; `settings` is everything, except the source, that a result depends on."""
        self.out = out
        self._file = out / (f".predict.{rank}.jsonl" if rank else MANIFEST_FILE)
        self._settings_digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        self._known: dict[str, tuple[Fingerprint, ResultInfo]] = {}
        self._newest = 0.0  # New lines get a later time than all of these, even if another node's clock is ahead.
        entries: list[tuple[float, list[str], tuple[Fingerprint, ResultInfo]]] = []
        for path in out.glob(MANIFEST_GLOB):
            for line in path.read_text().splitlines():
                with suppress(ValueError, TypeError, KeyError):  # a line that was cut off, or of release 0.1
                    entry = json.loads(line)
                    entries.append((float(entry.get("at", 0.0)), entry["targets"], (entry["fingerprint"], entry["result"])))
        for at, targets, known in sorted(entries, key=lambda entry: entry[0]):
            self._known |= dict.fromkeys(targets, known)
            self._newest = at

    def fingerprint(self, job: Job) -> Fingerprint:
        """Return what the results of a job depend on. Call it before reading the source, which may change meanwhile.

        A stream never has the same one again. Raises OSError.
        """
        if job.data:
            return [self._settings_digest, hashlib.sha256(job.data).hexdigest()]
        if job.url:
            return [self._settings_digest, job.url, time.time_ns()]
        status = job.source.stat()
        return [self._settings_digest, status.st_size, status.st_mtime_ns]

    def lookup(self, job: Job) -> ResultInfo | None:
        """Return the recorded result of a job if all its files exist and have the same fingerprint, else None."""
        try:
            fingerprint = self.fingerprint(job)
        except OSError:  # Reading the file reports the error.
            return None
        known = [self._known.get(self._name(target)) for target in job.targets if target.is_file()]
        is_current = len(known) == len(job.targets) and all(entry and entry[0] == fingerprint for entry in known)
        return known[0][1] if is_current and known[0] else None

    def is_stale(self, job: Job) -> bool:
        """Return whether a result of a job was made with other settings, such as another checkpoint."""
        known = [self._known.get(self._name(target)) for target in job.targets if target.is_file()]
        return any(entry and entry[0] and entry[0][0] != self._settings_digest for entry in known)

    def invalidate(self, job: Job) -> None:
        """Record that the job's existing results are being replaced, in case that is interrupted."""
        if any(self._name(target) in self._known for target in job.targets):
            self.record(job, [], {})

    def record(self, job: Job, fingerprint: Fingerprint, result: ResultInfo) -> None:
        """Record the result of a finished job."""
        targets = [self._name(target) for target in job.targets]
        at = max(time.time(), self._newest + 1e-3)
        line = json.dumps({"targets": targets, "fingerprint": fingerprint, "result": result, "at": at})
        with self._file.open("a") as file:
            file.write(f"\n{line}")  # The newline comes first, because the line before may have been cut off.

    def _name(self, target: Path) -> str:
        return target.relative_to(self.out).as_posix()
