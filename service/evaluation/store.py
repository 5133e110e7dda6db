"""Evaluations on disk, shared by all replicas of the service: a JSON file each, and a lock for as long as its replica lives."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from errno import EACCES
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from core.errors import InputError
from core.evaluation.report import Report
from core.runtime.files import TEMPORARY, Stamp, stamp, write_atomically

State = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
LEFT_S = 60.0  # without locks: a replica that lives has written its job's progress since


class Progress(BaseModel):
    """Images scored, of all."""

    done: int
    total: int


class Job(BaseModel):
    """One evaluation, as it is told and as it is stored."""

    id: str
    model: str
    digest: str
    split: str
    state: State = "queued"
    created: datetime
    started: datetime | None = None
    finished: datetime | None = None
    progress: Progress
    error: str | None = None
    report: Report | None = None

    @property
    def active(self) -> bool:
        """Whether it is still to end."""
        return self.state in ("queued", "running")


class JobFiles:
    """STATE/evaluations: ID.json, beside it ID.lock while a replica is at it, and ID.cancel where it is not wanted any more."""

    def __init__(self, folder: Path) -> None:
        """Make the folder where it is not there. Raises InputError where it can't be written to."""
        self.folder = folder
        self._locks: dict[str, int] = {}
        self._seen: dict[str, Stamp] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(EACCES, "no permission to write")
        except OSError as error:
            raise InputError(f"SEGMENT_STATE: {folder}: can't be used ({error.strerror}); name a writable folder") from None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While one replica looks whether it may begin, no other does."""
        descriptor = os.open(self.folder.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def clear(self) -> None:
        """Remove what replicas that were killed left: of jobs that nobody is at."""
        for pattern, ending in ((TEMPORARY, ".json."), ("*.cancel", ".cancel")):
            for path in self.folder.glob(pattern):
                if not self.held(path.name.lstrip(".").partition(ending)[0]):
                    with suppress(OSError):
                        path.unlink()

    def store(self, job: Job) -> None:
        """Write a job's file. Raises OSError."""
        write_atomically(self.folder / f"{job.id}.json", [job.model_dump_json().encode()])

    def changed(self) -> Iterator[str]:
        """The ids of the files that are new or other ones since they were read."""
        for path in sorted(self.folder.glob("*.json")):
            if self._seen.get(path.stem) != stamp(path):
                yield path.stem

    def read(self, job_id: str) -> Job | None:
        """A job from its file, None where there is none. Raises OSError, ValidationError."""
        path = self.folder / f"{job_id}.json"
        now = stamp(path)
        if now is None:
            return None
        self._seen[job_id] = now  # before it is read: what is written meanwhile is read once more
        return Job.model_validate_json(path.read_bytes())

    def remove(self, job_id: str) -> None:
        """Forget a job."""
        self._seen.pop(job_id, None)
        with suppress(OSError):
            (self.folder / f"{job_id}.json").unlink(missing_ok=True)

    def hold(self, job_id: str) -> None:
        """Tell the other replicas that this one is at it, until `release` or the end of this process. Raises OSError."""
        descriptor = os.open(self.folder / f"{job_id}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        with suppress(OSError):  # a file system without locks: the age of the job's file tells
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._locks[job_id] = descriptor

    def refresh(self, job_id: str) -> None:
        """Let the job's file stay young while it waits in the queue: where there are no locks, its age tells of a life."""
        path = self.folder / f"{job_id}.json"
        written = stamp(path)
        if written and time.time() - written[2] / 1e9 > LEFT_S / 4:
            with suppress(OSError):
                os.utime(path)

    def release(self, job_id: str) -> None:
        """This replica is through with it."""
        for ending in ("lock", "cancel"):
            with suppress(OSError):
                (self.folder / f"{job_id}.{ending}").unlink(missing_ok=True)
        if (descriptor := self._locks.pop(job_id, None)) is not None:
            os.close(descriptor)

    def held(self, job_id: str) -> bool:
        """Whether a replica that lives is at it."""
        try:
            descriptor = os.open(self.folder / f"{job_id}.lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError:  # it is there
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            written = stamp(self.folder / f"{job_id}.json")
            return written is not None and time.time() - written[2] / 1e9 < LEFT_S
        finally:
            os.close(descriptor)
        return False

    def unwant(self, job_id: str) -> None:
        """Ask the replica that is at it to end it. Raises OSError."""
        (self.folder / f"{job_id}.cancel").touch()

    def unwanted(self, job_id: str) -> bool:
        """Whether a replica has asked for its end."""
        return (self.folder / f"{job_id}.cancel").exists()
