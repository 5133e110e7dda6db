"""Evaluation jobs: one thread runs them, one after another; those of other replicas are told from their files."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from core.data.datasets import FolderDataset, list_splits, open_dataset
from core.errors import InputError, first_fault
from core.evaluation.report import Report, require_same_labels
from service.api.problems import Problem, shutting_down
from service.evaluation.runner import Scoring, step_back
from service.evaluation.store import Job, JobFiles, Progress
from service.inference.registry import Loaded
from service.middleware.disconnect import waited_for

KEPT = 1000  # evaluations that have ended, the newest
EVENTS_S = 0.25  # between two looks whether a job has changed
QUIET_EVENTS_S = 15.0  # after which a job that has not is told once more
DISK = 4  # threads that wait for jobs' files, and as many for the data
STORED_S = 1.0  # how often the progress is written, for other replicas

JOB_ID = re.compile(r"[0-9A-Za-z-]{1,40}")  # what is asked of the disk for

log = logging.getLogger("service")
Answer = TypeVar("Answer")


class Stopped(Exception):
    """The service is going down; the job is interrupted."""


class Cancelled(Exception):
    """Somebody does not want the job any more."""


class Evaluations:
    """Starts, runs and lists evaluations; their files live in STATE/evaluations."""

    def __init__(self, files: JobFiles, data: Path | None, scoring: Scoring) -> None:
        self.files, self.data, self.scoring = files, data, scoring
        self._jobs: dict[str, Job] = {}  # those of other replicas, too, as they were last read
        self._futures: dict[str, Future[None]] = {}
        self._own: set[str] = set()  # begun here: what is in memory is right, whatever a full disk says
        self._lock = threading.Lock()
        self._disk, self._data = (ThreadPoolExecutor(DISK, name) for name in ("evaluations' files", "evaluations' data"))
        self._stopping = threading.Event()
        self._cancelled: set[str] = set()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="evaluation", initializer=step_back)

    def restore(self) -> None:
        """Read the jobs of earlier runs; one that was under way when the service ended is interrupted."""
        try:
            if self.data is not None:
                list_splits(self.data)
        except (InputError, OSError) as error:  # not the end: the rest of the service does without
            log.warning("SEGMENT_DATA: %s; /evaluate will answer no_data", error)
        self.files.clear()
        self._look()
        self._forget()

    def _look(self) -> None:
        """Read what other replicas have written."""
        active = [job.id for job in list(self._jobs.values()) if job.active]  # their replica may be gone
        for job_id in {*self.files.changed(), *active}:
            self._read(job_id)

    def _read(self, job_id: str) -> None:
        """Read a job that is not this replica's own; one whose replica is gone is interrupted."""
        if job_id in self._own:
            return
        held = self.files.held(job_id)  # asked first: a job that ends now is stored, and then let go
        try:
            job = self.files.read(job_id)
        except (OSError, ValidationError) as error:
            reason = first_fault(error) if isinstance(error, ValidationError) else error
            log.warning("%s: not read (%s)", self.files.folder / f"{job_id}.json", reason)
            return
        if job is None:
            self._jobs.pop(job_id, None)
            return
        self._jobs[job_id] = job
        if job.active and not held:
            self._change(job, state="interrupted", finished=_now())

    def stop(self) -> None:
        """Let the running job stop at its next batch and no other begin; returns at once."""
        self._stopping.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Stop and wait; what did not end is written as interrupted."""
        self.stop()
        self._pool.shutdown()
        for pool in (self._disk, self._data):
            pool.shutdown(wait=False)
        for job in list(self._jobs.values()):  # one that comes late may be added meanwhile
            if job.active and job.id in self._own:
                self._change(job, state="interrupted", finished=_now())

    def start(self, model: Loaded, dataset: FolderDataset, again: Callable[[], Future[Loaded]]) -> Job:
        """Queue an evaluation; `again` loads the model when its turn has come, so that those that wait hold none in memory.

        Raises Problem: 409 `labels_differ`, `evaluation_running`.
        """
        try:
            require_same_labels(model.segmenter.labels, dataset.labels)
        except InputError as error:
            raise Problem("labels_differ", str(error)) from None
        with self._lock, self.files.alone():
            self._look()
            running = next((job for job in self._jobs.values() if job.active and job.model == model.name), None)
            if running:
                where = {"Location": f"/evaluate/{running.id}"}
                raise Problem("evaluation_running", f"the model {model.name} is being evaluated: /evaluate/{running.id}", where)
            job = Job(
                id=f"{_now():%Y%m%dT%H%M%S}-{secrets.token_hex(4)}",
                model=model.name,
                digest=model.digest,
                split=dataset.split,
                created=_now(),
                progress=Progress(done=0, total=len(dataset)),
            )
            try:
                self._own.add(job.id)
                self.files.hold(job.id)
                self.files.store(job)  # first: a job that can't be written is not begun
            except OSError:
                self.files.release(job.id)
                self._own.discard(job.id)
                raise
            try:
                self._futures[job.id] = self._pool.submit(self._run, job, again, dataset)
            except RuntimeError:  # the pool takes no more
                self._change(job, state="interrupted", finished=_now())
                raise shutting_down() from None
            finally:
                self._jobs[job.id] = job
                self._forget()
        return job

    def _forget(self) -> None:
        """Let go of the oldest, and of what only a job that goes on needs."""
        ended = [job for job in self.jobs() if not job.active]
        for job in ended:
            self._futures.pop(job.id, None)
            self._cancelled.discard(job.id)
        for job in ended[KEPT:]:
            del self._jobs[job.id]
            self._own.discard(job.id)
            self.files.remove(job.id)

    async def open(self, split: str) -> FolderDataset:
        """A split of the service's data, which may be on another drive that hangs. Raises Problem: 404 `unknown_split`, 409
        `no_data`."""
        return await asyncio.get_running_loop().run_in_executor(self._data, self._open, split)

    def _open(self, split: str) -> FolderDataset:
        if self.data is None:
            raise Problem("no_data", "this service has no data to score on; set SEGMENT_DATA to a data folder")
        try:
            known = list_splits(self.data)
            if split not in known:
                raise Problem("unknown_split", f"the data has no such split; found: {', '.join(known) or 'none'}")
            return open_dataset(self.data, split)
        except InputError as error:
            raise Problem("no_data", str(error)) from None
        except OSError as error:
            raise Problem("no_data", f"the service's data can't be read ({error.strerror})") from None

    async def wait(self, job: Job) -> Report:
        """Wait until a job has ended, without a thread. Raises Problem 500 `evaluation_failed` where it has no report."""
        await self._ended(job)
        if job.state == "cancelled":
            raise Problem("evaluation_cancelled", f"somebody ended the evaluation before it was done; see /evaluate/{job.id}")
        if job.state == "interrupted" or job.active:
            raise shutting_down()
        if job.report is None:
            raise Problem("evaluation_failed", f"the evaluation ended without a report ({job.state}); see /evaluate/{job.id}")
        return job.report

    async def cancel(self, job: Job) -> None:
        """End a job, and return when it has ended. Raises Problem 409 `evaluation_finished`."""
        if not job.active:
            raise Problem("evaluation_finished", f"this evaluation has ended already ({job.state})")
        if job.id not in self._own:  # another replica's
            await self.on_disk(self.files.unwant, job.id)
        self._cancelled.add(job.id)
        future = self._futures.get(job.id)
        if future and future.cancel():  # it had not begun
            job.finished, job.state = _now(), "cancelled"  # before anybody who waits for it looks
            await self.on_disk(self._change, job)
        job = await self._ended(job)
        if job.active:  # another replica's, and this one ends
            raise shutting_down()
        if job.state != "cancelled":
            raise Problem("evaluation_finished", f"this evaluation has ended meanwhile ({job.state})")

    async def _ended(self, job: Job) -> Job:
        """Wait until a job's thread is through with it, without a thread, or until its replica has told so."""
        if future := self._futures.get(job.id):
            await asyncio.wait((asyncio.wrap_future(future),))
            return job
        while job.active and not self._stopping.is_set():
            await asyncio.sleep(EVENTS_S)
            job = await self.on_disk(self.job, job.id)
        return job

    async def on_disk(self, function: Callable[..., Answer], *given: object) -> Answer:
        """What reads or writes jobs' files, in one of a few threads: where their drive hangs, no others hang with it."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, partial(function, *given))

    async def events(self, job: Job) -> AsyncIterator[Job]:
        """The job at once, whenever it has changed, when it has ended, and now and then where nothing changes: a proxy cuts
        a connection on which nothing comes."""
        told, since = None, time.monotonic()
        while True:
            active, now = job.active, (job.state, job.progress.done)
            if now != told or time.monotonic() - since > QUIET_EVENTS_S:
                since = time.monotonic()
                yield job
            if not active or (self._stopping.is_set() and (job.state == "queued" or job.id not in self._own)):
                return
            told = now
            await asyncio.sleep(EVENTS_S)
            job = await self.on_disk(self.job, job.id)

    def jobs(self, look: bool = False) -> list[Job]:
        """All jobs, the newest first; with `look` those of other replicas as they are now."""
        if look:
            with self._lock:
                self._look()
        now = list(self._jobs.values())  # in one step: another thread may add one meanwhile
        return sorted(now, key=lambda job: (job.created, job.id), reverse=True)

    def job(self, job_id: str) -> Job:
        """One job. Raises Problem 404 `unknown_evaluation`."""
        known = self._jobs.get(job_id)
        if job_id not in self._own and not (known and not known.active) and JOB_ID.fullmatch(job_id):
            with self._lock:
                self._read(job_id)
        job = self._jobs.get(job_id)
        if job is None:
            raise Problem("unknown_evaluation", "there is no evaluation of this id; GET /evaluate lists them")
        return job

    def _run(self, job: Job, again: Callable[[], Future[Loaded]], dataset: FolderDataset) -> None:
        try:
            self._require_wanted(job)  # another replica may have been asked for its end while it was queued
            self._change(job, started=_now(), state="running")
            look = partial(self._require_wanted, job)
            model = waited_for(again(), look)
            if model.digest != job.digest:
                raise InputError(f"the model {job.model} was replaced while this waited; start it again")
            report = self.scoring.report(model, dataset, self._progress(job), look)
            self._change(job, report=report, finished=_now(), state="done")
        except Cancelled:
            self._change(job, state="cancelled", finished=_now())
        except Stopped:
            self._change(job, state="interrupted", finished=_now())
        except (InputError, Problem) as error:
            self._change(job, error=str(error), finished=_now(), state="failed")
        except Exception as error:
            log.exception("evaluation %s failed", job.id)
            self._change(
                job, state="failed", error=f"{type(error).__name__}: the service's log holds the rest", finished=_now()
            )

    def _require_wanted(self, job: Job) -> None:
        if job.id in self._cancelled or self.files.unwanted(job.id):
            raise Cancelled
        if self._stopping.is_set():
            raise Stopped

    def _progress(self, job: Job) -> Callable[[int], None]:
        stored = time.monotonic()

        def progress(done: int) -> None:
            nonlocal stored
            job.progress = Progress(done=done, total=job.progress.total)
            self._require_wanted(job)
            if time.monotonic() - stored > STORED_S:
                stored = time.monotonic()
                self._change(job)
                self._look_at_queue()

        return progress

    def _look_at_queue(self) -> None:
        """End those of the queue that another replica was asked to end, and tell that the others are not left alone."""
        for job in list(self._jobs.values()):
            future = self._futures.get(job.id)
            if not future or job.state != "queued":
                continue
            if self.files.unwanted(job.id) and future.cancel():
                self._change(job, state="cancelled", finished=_now())
            else:
                self.files.refresh(job.id)

    def _change(self, job: Job, **values: object) -> None:
        """Set and store; the state stands last, so that whoever reads `done` finds the report."""
        for key, value in values.items():
            setattr(job, key, value)
        try:
            self.files.store(job)
        except OSError:  # a full disk must not leave a job that never ends; what is told from memory stays right
            log.exception("evaluation %s: its state could not be written", job.id)
        if not job.active:
            self.files.release(job.id)


def _now() -> datetime:
    return datetime.now(UTC)
