"""Evaluation jobs on disk, shared by all replicas: two files per job, and a lock file while a replica runs it."""

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
from core.runtime.atomic import TMP_GLOB, write_atomically
from core.runtime.files import FileVersion, file_version
from service.evaluation.image_counts import ImageCounts

State = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
STALE_AFTER_S = 60.0  # A job whose lock can't be checked is abandoned if its file is older.


class Progress(BaseModel):
    """Number of evaluated images, and of all images."""

    done: int
    total: int


class Job(BaseModel):
    """One evaluation, as it is returned and stored."""

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
        """Whether the job is queued or running."""
        return self.state in ("queued", "running")


class JobStore:
    """The files of all jobs in one directory.

    `ID.json` is the job, and `ID.safetensors` the counts of each image if it is done. `ID.lock` exists while a replica has the
    job queued or running, and `ID.cancel` asks that replica to cancel it. On file systems without locks, or if another user's
    `ID.lock` can't be opened, the age of `ID.json` shows whether the replica is alive.
    """

    def __init__(self, directory: Path) -> None:
        """Create the directory if necessary. Raises InputError if it is not writable."""
        self.directory = directory
        self._locks: dict[str, int] = {}  # file descriptor by job id
        self._read_versions: dict[str, FileVersion] = {}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if not os.access(directory, os.W_OK | os.X_OK):
                raise PermissionError(EACCES, "no permission to write")
        except OSError as error:
            raise InputError(
                f"SEGMENT_STATE: {directory}: can't be used ({error.strerror}); specify a writable directory"
            ) from None

    @contextmanager
    def exclusive_lock(self) -> Iterator[None]:
        """Let only one replica at a time decide whether a job may start."""
        descriptor = os.open(self.directory.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def remove_stale(self) -> None:
        """Remove temporary files and cancellation requests of jobs that no replica runs."""
        for pattern in (TMP_GLOB, "*.cancel"):
            for path in self.directory.glob(pattern):
                if not self.is_locked(path.name.lstrip(".").partition(".")[0]):
                    with suppress(OSError):
                        path.unlink()

    def save(self, job: Job) -> None:
        """Write the file of a job. Raises OSError."""
        write_atomically(self._path(job.id, "json"), [job.model_dump_json().encode()])

    def save_counts(self, job_id: str, counts: ImageCounts) -> None:
        """Write the counts of each image. Raises OSError."""
        counts.write(self._path(job_id, "safetensors"))

    def read_counts(self, job_id: str) -> ImageCounts | None:
        """Return the counts of each image, or None if there are none. Raises CheckpointError."""
        path = self._path(job_id, "safetensors")
        return ImageCounts.read(path) if path.exists() else None

    def modified_ids(self) -> Iterator[str]:
        """Yield the ids of the jobs whose files are new or have changed since they were read."""
        for path in sorted(self.directory.glob("*.json")):
            if self._read_versions.get(path.stem) != file_version(path):
                yield path.stem

    def read(self, job_id: str) -> Job | None:
        """Return a job, or None if it has no file. Raises OSError or ValidationError."""
        path = self._path(job_id, "json")
        version = file_version(path)
        if version is None:
            return None
        self._read_versions[job_id] = version  # Recorded before reading, so that a concurrent change is noticed later.
        return Job.model_validate_json(path.read_bytes())

    def remove(self, job_id: str) -> None:
        """Delete the files of a job."""
        self._read_versions.pop(job_id, None)
        for suffix in ("json", "safetensors"):
            with suppress(OSError):
                self._path(job_id, suffix).unlink(missing_ok=True)

    def lock(self, job_id: str) -> None:
        """Mark a job as this replica's until `release` or the end of the process. Raises OSError."""
        descriptor = os.open(self._path(job_id, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._locks[job_id] = descriptor

    def touch(self, job_id: str) -> None:
        """Update the modification time of a queued job's file, which is stale otherwise on a file system without locks."""
        path = self._path(job_id, "json")
        age = self._age(job_id)
        if age is not None and age > STALE_AFTER_S / 4:
            with suppress(OSError):
                os.utime(path)

    def release(self, job_id: str) -> None:
        """Remove the lock of a job that has ended, and its cancellation request."""
        for suffix in ("lock", "cancel"):
            with suppress(OSError):
                self._path(job_id, suffix).unlink(missing_ok=True)
        if (descriptor := self._locks.pop(job_id, None)) is not None:
            os.close(descriptor)

    def is_locked(self, job_id: str) -> bool:
        """Return whether a living replica has the job queued or running."""
        try:
            descriptor = os.open(self._path(job_id, "lock"), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError:  # The lock file can't be opened, for example because another user created it.
            return self._is_recent(job_id)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # It fails while a replica holds the exclusive lock.
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return self._is_recent(job_id)
        finally:
            os.close(descriptor)
        return False

    def request_cancel(self, job_id: str) -> None:
        """Ask the replica that runs a job to cancel it. Raises OSError."""
        self._path(job_id, "cancel").touch()

    def cancel_requested(self, job_id: str) -> bool:
        """Return whether a replica has called `request_cancel`."""
        return self._path(job_id, "cancel").exists()

    def _is_recent(self, job_id: str) -> bool:
        """Return whether a job's file is younger than that of an abandoned job."""
        age = self._age(job_id)
        return age is not None and age < STALE_AFTER_S

    def _path(self, job_id: str, suffix: str) -> Path:
        return self.directory / f"{job_id}.{suffix}"

    def _age(self, job_id: str) -> float | None:
        """Return the seconds since a job's file was changed, or None if it has no file."""
        version = file_version(self._path(job_id, "json"))
        return None if version is None else time.time() - version[2] / 1e9
