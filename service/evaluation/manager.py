"""Evaluation jobs: one thread runs those of this replica one after another; those of other replicas are read from disk."""

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

from core.data.datasets import DirectoryDataset, list_splits, open_dataset
from core.errors import CheckpointError, InputError, first_validation_error
from core.evaluation.evaluator import require_same_labels
from core.evaluation.report import ImageScore, Report
from core.images.encode import encode_indexed_png
from service.api.problems import ProblemError, shutting_down
from service.evaluation.image_counts import ReportDifference, compare_counts
from service.evaluation.runner import EvaluationRunner, lower_thread_priority
from service.evaluation.store import Job, JobStore, Progress
from service.inference.registry import LoadedModel
from service.middleware.disconnect import wait_cancellable

MAX_FINISHED_JOBS = 1000  # The oldest ones beyond are deleted.
POLL_INTERVAL_S = 0.25  # interval at which waiting requests check whether a job has changed
IO_THREADS = 4  # for the files of jobs, and as many for the dataset
DATASET_TIMEOUT_S = 30.0  # for listing the dataset, whose drive may hang
SAVE_INTERVAL_S = 1.0  # interval at which the progress is saved for other replicas
JOB_ID = re.compile(r"[0-9A-Za-z-]{1,40}")  # Other ids can't exist; they are never part of a path.

log = logging.getLogger("service")
Result = TypeVar("Result")


class ServiceStopping(Exception):
    """The service is shutting down; the running job is interrupted."""


class JobCancelled(Exception):
    """A client has cancelled the running job."""


class EvaluationManager:
    """Start, run, list and cancel evaluations.

    Args:
        store: The files of the jobs.
        data: Directory of the dataset, or None if there is none.
        runner: Executes an evaluation.
    """

    def __init__(self, store: JobStore, data: Path | None, runner: EvaluationRunner) -> None:
        self.store, self.data, self.runner = store, data, runner
        self._jobs: dict[str, Job] = {}  # including those of other replicas, as they were last read
        self._futures: dict[str, Future[None]] = {}
        self._own_ids: set[str] = set()  # Jobs of this replica: their state in memory is newer than their files.
        self._cancelled_ids: set[str] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._io_pool = ThreadPoolExecutor(IO_THREADS, "evaluation-files")
        self._data_pool = ThreadPoolExecutor(IO_THREADS, "evaluation-data")
        self._run_pool = ThreadPoolExecutor(1, "evaluation", initializer=lower_thread_priority)
        self._compare_pool = ThreadPoolExecutor(1, "comparison", initializer=lower_thread_priority)
        self._last_opened: DirectoryDataset | None = None

    def load_jobs(self) -> None:
        """Read the jobs of earlier processes; those that were active when their process ended become interrupted."""
        self.store.remove_stale()
        self._sync_from_disk()
        self._prune()

    def start(self, model: LoadedModel, dataset: DirectoryDataset, load_model: Callable[[], Future[LoadedModel]]) -> Job:
        """Queue an evaluation.

        Args:
            model: The model to evaluate; no reference to it is kept.
            dataset: The split to evaluate on.
            load_model: Loads the model when the job starts, so that queued jobs keep no model in memory.

        Raises:
            ProblemError: 409 `label_space_mismatch` or `evaluation_running`, 503 `shutting_down`.
        """
        try:
            require_same_labels(model.segmenter.labels, dataset.labels)
        except InputError as error:
            raise ProblemError("label_space_mismatch", str(error)) from None
        with self._lock, self.store.exclusive_lock():
            self._sync_from_disk()
            running = next((job for job in self._jobs.values() if job.active and job.model == model.name), None)
            if running:
                url = f"/evaluate/{running.id}"
                detail = f"the model {model.name} is being evaluated; see {url}"
                raise ProblemError("evaluation_running", detail, {"Location": url})
            job = Job(
                id=f"{_now():%Y%m%dT%H%M%S}-{secrets.token_hex(4)}",
                model=model.name,
                digest=model.digest,
                split=dataset.split,
                created=_now(),
                progress=Progress(done=0, total=len(dataset)),
            )
            self._own_ids.add(job.id)
            try:
                self.store.lock(job.id)
                self.store.save(job)  # Saved first: a job that can't be saved must not start.
            except OSError:
                self.store.release(job.id)
                self._own_ids.discard(job.id)
                raise
            try:
                self._futures[job.id] = self._run_pool.submit(self._run, job, load_model, dataset)
            except RuntimeError:  # The pool has been shut down.
                self._update(job, state="interrupted", finished=_now())
                raise shutting_down() from None
            finally:
                self._jobs[job.id] = job
                self._prune()
        return job

    async def check_dataset(self) -> None:
        """Log a warning if there is a dataset that can't be read; all other endpoints work without it."""
        if self.data is not None:
            try:
                await self._read_dataset(list_splits, self.data)
            except ProblemError as error:
                log.warning("SEGMENT_DATA: %s; until it can be read, /evaluate responds with dataset_unavailable", error)

    async def splits(self) -> list[str]:
        """Return the names of the splits of the dataset. Raises ProblemError 409 `dataset_unavailable`."""
        if self.data is None:
            raise ProblemError("dataset_unavailable", "this service has no dataset; set SEGMENT_DATA to its directory")
        return await self._read_dataset(list_splits, self.data)

    async def open(self, split: str) -> DirectoryDataset:
        """Open a split of the dataset.

        Raises:
            ProblemError: 404 `unknown_split` or 409 `dataset_unavailable`.
        """
        splits = await self.splits()
        if split not in splits:
            raise ProblemError("unknown_split", f"there is no such split; expected one of {', '.join(splits) or 'none'}")
        self._last_opened = await self._read_dataset(open_dataset, self.data, split)
        return self._last_opened

    async def example_image(self, job: Job, index: int, max_bytes: int) -> tuple[bytes, str]:
        """Return the file of an image that the report of a job shows as an example, and the suffix of its name.

        Raises:
            ProblemError: 404 `unknown_example`, 409 `dataset_unavailable` or 413 `too_large`.
        """
        path = (await self._open_example(job, index)).pairs[index][0]
        return await self._read_dataset(_read_limited, path, max_bytes), path.suffix.lower()

    async def example_label(self, job: Job, index: int) -> bytes:
        """Return the label of such an image as an indexed PNG. Raises as `example_image` does."""
        dataset = await self._open_example(job, index)

        def read() -> bytes:
            return encode_indexed_png(dataset.read_labels(index), dataset.labels)

        return await self._read_dataset(read)

    async def _open_example(self, job: Job, index: int) -> DirectoryDataset:
        """Return the split of an example, after a check that the dataset still has the image at its index.

        Requests select an example of the report by its index: no part of a path comes from a client.
        """
        shown = [*job.report.examples.worst, *job.report.examples.best] if job.report else []
        example = next((example for example in shown if example.index == index), None)
        if example is None:
            raise ProblemError("unknown_example", "the report has no example with this index; GET /evaluate/ID lists them")
        dataset = self._last_opened  # so that a large dataset is not listed again for each of a dozen files
        if dataset is None or dataset.split != job.split or not _has_example(dataset, example):
            dataset = await self.open(job.split)
        if not _has_example(dataset, example):
            detail = "the dataset has changed since the evaluation and no longer has this image; run the evaluation again"
            raise ProblemError("dataset_unavailable", detail)
        return dataset

    async def compare(self, job: Job, base: Job) -> ReportDifference:
        """Return the differences between the scores of two evaluations.

        Raises:
            ProblemError: 409 `not_comparable`.
        """
        return await asyncio.get_running_loop().run_in_executor(self._compare_pool, self._compare, job, base)

    def _compare(self, job: Job, base: Job) -> ReportDifference:
        try:
            if job.report is None or base.report is None:
                raise InputError("both evaluations must be done; see GET /evaluate")
            first, second = job.report.data, base.report.data
            if (first.name, first.split) != (second.name, second.split):
                names = f"{first.name} {first.split} and {second.name} {second.split}"
                raise InputError(f"they were run on different data ({names}); run both on the same split")
            class_names, base_class_names = ([scores.name for scores in report.classes] for report in (job.report, base.report))
            if class_names != base_class_names:
                raise InputError("their classes differ, because the dataset has changed; run both again")
            counts, base_counts = self.store.read_counts(job.id), self.store.read_counts(base.id)
            if counts is None or base_counts is None:
                raise InputError(
                    "no counts of the single images were stored, because release 0.1 ran the evaluation or the split is too"
                    " large; run it again, or use python -m training compare"
                )
            scores, classes = compare_counts(counts, base_counts, class_names)
        except (InputError, CheckpointError) as error:
            raise ProblemError("not_comparable", f"the evaluations can't be compared: {error}") from None
        return ReportDifference(id=job.id, base=base.id, scores=scores, classes=classes)

    async def _read_dataset(self, function: Callable[..., Result], *args: object) -> Result:
        """Call a function that lists the dataset, whose drive may hang, in a thread of a separate pool.

        Raises:
            ProblemError: 409 `dataset_unavailable`.
        """
        call = asyncio.get_running_loop().run_in_executor(self._data_pool, function, *args)
        try:
            return await asyncio.wait_for(call, DATASET_TIMEOUT_S)
        except TimeoutError:
            detail = f"the dataset can't be read (no response in {DATASET_TIMEOUT_S:g} s); check that its drive is available"
            raise ProblemError("dataset_unavailable", detail) from None
        except InputError as error:
            raise ProblemError("dataset_unavailable", str(error)) from None
        except OSError as error:
            raise ProblemError("dataset_unavailable", f"the dataset can't be read ({error.strerror})") from None

    async def wait(self, job: Job) -> Report:
        """Return the report of a job when it has finished.

        Raises:
            ProblemError: 409 `evaluation_cancelled`, 500 `evaluation_failed` or 503 `shutting_down`.
        """
        await self._wait_finished(job)
        if job.state == "cancelled":
            raise ProblemError("evaluation_cancelled", f"the evaluation was cancelled; see /evaluate/{job.id}")
        if job.state == "interrupted" or job.active:
            raise shutting_down()
        if job.report is None:
            raise ProblemError("evaluation_failed", f"the evaluation failed; /evaluate/{job.id} has the reason")
        return job.report

    async def cancel(self, job: Job) -> None:
        """Cancel a job, and return when it has ended. Raises ProblemError 409 `evaluation_finished`."""
        if not job.active:
            raise ProblemError("evaluation_finished", f"the evaluation has finished already ({job.state})")
        if job.id not in self._own_ids:
            await self.run_io(self.store.request_cancel, job.id)
        self._cancelled_ids.add(job.id)
        future = self._futures.get(job.id)
        if future and future.cancel():  # The job was still queued.
            job.finished, job.state = _now(), "cancelled"  # Set at once: a request that waits for the job wakes up next.
            await self.run_io(self._update, job)
        job = await self._wait_finished(job)
        if job.active:  # The job belongs to another replica, and this one is shutting down.
            raise shutting_down()
        if job.state != "cancelled":
            raise ProblemError("evaluation_finished", f"the evaluation finished before it could be cancelled ({job.state})")

    async def _wait_finished(self, job: Job) -> Job:
        """Return a job when its thread has finished or, if it belongs to another replica, when its file reports it."""
        if future := self._futures.get(job.id):
            await asyncio.wait((asyncio.wrap_future(future),))
            return job
        while job.active and not self._stopping.is_set():
            await asyncio.sleep(POLL_INTERVAL_S)
            job = await self.run_io(self.job, job.id)
        return job

    async def events(self, job: Job) -> AsyncIterator[Job]:
        """Yield a job now, whenever its state or progress has changed, and at its end."""
        previous = None
        while True:
            active, current = job.active, (job.state, job.progress.done)
            if current != previous:
                yield job
                previous = current
            is_stuck = self._stopping.is_set() and (job.state == "queued" or job.id not in self._own_ids)
            if not active or is_stuck:
                return
            await asyncio.sleep(POLL_INTERVAL_S)
            job = await self.run_io(self.job, job.id)

    async def run_io(self, function: Callable[..., Result], *args: object) -> Result:
        """Call a function that reads or writes jobs' files in a thread of a small pool, because their file system may hang."""
        return await asyncio.get_running_loop().run_in_executor(self._io_pool, partial(function, *args))

    def list_jobs(self, refresh: bool = False) -> list[Job]:
        """Return all jobs, newest first; with `refresh`, read those of other replicas from disk first."""
        if refresh:
            with self._lock:
                self._sync_from_disk()
        jobs = list(self._jobs.values())  # Copied, because another thread may add a job.
        return sorted(jobs, key=lambda job: (job.created, job.id), reverse=True)

    def job(self, job_id: str) -> Job:
        """Return one job. Raises ProblemError 404 `unknown_evaluation`."""
        job = self._jobs.get(job_id)
        may_have_changed = job_id not in self._own_ids and (job is None or job.active)
        if may_have_changed and JOB_ID.fullmatch(job_id):
            with self._lock:
                self._read(job_id)
            job = self._jobs.get(job_id)
        if job is None:
            raise ProblemError("unknown_evaluation", "there is no evaluation with this id; GET /evaluate lists all")
        return job

    def stop(self) -> None:
        """Stop the running job at its next image, and start no other; returns at once."""
        self._stopping.set()
        self._run_pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Stop, wait for the running job, and mark unfinished jobs as interrupted."""
        self.stop()
        self._run_pool.shutdown()
        for pool in (self._io_pool, self._data_pool, self._compare_pool):
            pool.shutdown(wait=False)
        for job in list(self._jobs.values()):
            if job.active and job.id in self._own_ids:
                self._update(job, state="interrupted", finished=_now())

    def _run(self, job: Job, load_model: Callable[[], Future[LoadedModel]], dataset: DirectoryDataset) -> None:
        """Run a job to its end, whatever happens."""
        try:
            self._check_cancelled(job)  # Another replica may have requested it while the job was queued.
            self._update(job, started=_now(), state="running")
            check_cancelled = partial(self._check_cancelled, job)
            model = wait_cancellable(load_model(), check_cancelled)
            if model.digest != job.digest:
                raise InputError(f"the model {job.model} was reloaded while the evaluation was queued; start it again")
            report, counts = self.runner.evaluate(model, dataset, self._progress_fn(job), check_cancelled)
            try:
                self.store.save_counts(job.id, counts)
            except OSError:  # For example, the disk is full: the evaluation has a report, but can't be compared.
                log.exception("the counts of evaluation %s could not be saved", job.id)
            self._update(job, report=report, finished=_now(), state="done")
        except JobCancelled:
            self._update(job, state="cancelled", finished=_now())
        except ServiceStopping:
            self._update(job, state="interrupted", finished=_now())
        except (InputError, ProblemError) as error:
            self._update(job, error=str(error), finished=_now(), state="failed")
        except Exception as error:
            log.exception("evaluation %s failed", job.id)
            self._update(job, error=f"{type(error).__name__}; see the log of the service", finished=_now(), state="failed")

    def _check_cancelled(self, job: Job) -> None:
        if job.id in self._cancelled_ids or self.store.cancel_requested(job.id):
            raise JobCancelled
        if self._stopping.is_set():
            raise ServiceStopping

    def _progress_fn(self, job: Job) -> Callable[[int], None]:
        """Return a function that records the number of evaluated images."""
        last_saved = time.monotonic()

        def on_progress(done: int) -> None:
            nonlocal last_saved
            job.progress = Progress(done=done, total=job.progress.total)
            self._check_cancelled(job)
            if time.monotonic() - last_saved > SAVE_INTERVAL_S:
                last_saved = time.monotonic()
                self._update(job)
                self._maintain_queue()

        return on_progress

    def _maintain_queue(self) -> None:
        """Cancel queued jobs if another replica has requested it, and keep the files of the others from becoming stale."""
        for job in list(self._jobs.values()):
            future = self._futures.get(job.id)
            if not future or job.state != "queued":
                continue
            if self.store.cancel_requested(job.id) and future.cancel():
                self._update(job, state="cancelled", finished=_now())
            else:
                self.store.touch(job.id)

    def _update(self, job: Job, **values: object) -> None:
        """Set attributes of a job in this order and save it; `state` comes last if readers need the others with it."""
        for key, value in values.items():
            setattr(job, key, value)
        try:
            self.store.save(job)
        except OSError:  # For example, the disk is full: the job must end nevertheless, and its state in memory is right.
            log.exception("the state of evaluation %s could not be saved", job.id)
        if not job.active:
            self.store.release(job.id)

    def _sync_from_disk(self) -> None:
        """Read what other replicas have written."""
        active_ids = [job.id for job in list(self._jobs.values()) if job.active]  # Their replica may have died.
        for job_id in {*self.store.modified_ids(), *active_ids}:
            self._read(job_id)

    def _read(self, job_id: str) -> None:
        """Read a job of another replica; if it is active but the replica has died, mark it as interrupted."""
        if job_id in self._own_ids:
            return
        is_locked = self.store.is_locked(job_id)  # Checked first: a job that ends is saved before its lock is released.
        try:
            job = self.store.read(job_id)
        except (OSError, ValidationError) as error:
            reason = first_validation_error(error) if isinstance(error, ValidationError) else error
            log.warning("%s/%s.json: ignored, because it can't be read (%s)", self.store.directory, job_id, reason)
            return
        if job is None:
            self._jobs.pop(job_id, None)
            return
        self._jobs[job_id] = job
        if job.active and not is_locked:
            self._update(job, state="interrupted", finished=_now())

    def _prune(self) -> None:
        """Delete the oldest finished jobs, and release what only active jobs need."""
        finished = [job for job in self.list_jobs() if not job.active]
        for job in finished:
            self._futures.pop(job.id, None)
            self._cancelled_ids.discard(job.id)
        for job in finished[MAX_FINISHED_JOBS:]:
            del self._jobs[job.id]
            self._own_ids.discard(job.id)
            self.store.remove(job.id)


def _has_example(dataset: DirectoryDataset, example: ImageScore) -> bool:
    """Return whether the image at the index of an example still has its name; see `relative_names`."""
    return example.index < len(dataset) and dataset.sample_name(example.index).endswith(f"/{example.name}")


def _read_limited(path: Path, max_bytes: int) -> bytes:
    """Return the content of a file. Raises ProblemError 413 `too_large`."""
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ProblemError("too_large", f"the image is larger than {max_bytes:,} bytes; raise SEGMENT_MAX_BYTES to show it")
    return content


def _now() -> datetime:
    return datetime.now(UTC)
