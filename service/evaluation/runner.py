"""Execution of an evaluation: image by image through the served model, with lower priority than users' requests.

Three mechanisms keep the latency of users' requests low: workers run tasks of an evaluation only in gaps, the evaluation pauses
between its images, and its threads have a low priority. Median latency at 25 % load on two cores, relative to that without an
evaluation: 1.09 to 1.22 with all three, 1.16 without the thread priority (but p95 increases by half), 1.43 without the pauses,
and 2.07 with the gaps alone.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence

from core.data.datasets import DirectoryDataset, reduce_images, relative_names
from core.evaluation.evaluator import SegmentFn, evaluate_shard
from core.evaluation.report import CheckpointInfo, Report, build_report
from core.images.decode import RGB
from core.images.encode import LabelMap
from core.images.resize import Size
from service.evaluation.image_counts import ImageCounts
from service.inference.batching import Priority, WorkerPool
from service.inference.registry import LoadedModel
from service.middleware.disconnect import POLL_S, wait_cancellable

NICENESS = 15  # of at most 19
BATCH_SIZE = 1  # A user's request waits for one batch at most.
QUIET_S = 1.0  # After a request, the evaluation pauses between its images for this time,
PAUSE_RATIO = 2.0  # each time for this multiple of the duration of the last image.


class EvaluationRunner:
    """Evaluate models with the workers that also serve requests.

    Args:
        workers: The inference workers.
        idle_seconds: Returns for how many seconds no request has been in flight.
    """

    def __init__(self, workers: WorkerPool, idle_seconds: Callable[[], float] = lambda: math.inf) -> None:
        self.workers, self.idle_seconds = workers, idle_seconds

    def evaluate(
        self,
        model: LoadedModel,
        dataset: DirectoryDataset,
        on_progress: Callable[[int], None],
        check_cancelled: Callable[[], None],
    ) -> tuple[Report, ImageCounts]:
        """Return the report of a whole split and the counts of each image.

        Args:
            model: The model to evaluate.
            dataset: The split.
            on_progress: Called with the number of evaluated images.
            check_cancelled: Polled during every wait, also for files; an exception from it ends the evaluation.
        """
        counts = evaluate_shard(
            self._segment_fn(model, check_cancelled),
            reduce_images(dataset, model.segmenter.preprocess),
            BATCH_SIZE,
            on_batch=lambda done, _: on_progress(done),
            on_wait=check_cancelled,
        )
        backend = model.segmenter.backend.name
        info = CheckpointInfo(name=model.name, architecture=model.architecture, digest=model.digest, backend=backend)
        return build_report(counts, info, dataset), ImageCounts(relative_names(dataset), counts.per_image)

    def _segment_fn(self, model: LoadedModel, check_cancelled: Callable[[], None]) -> SegmentFn:
        """Return a function that segments images as `/segment` does, but with the priority BACKGROUND."""
        segmenter = model.segmenter
        last_start = time.monotonic()

        def segment(images: Sequence[RGB], sizes: Sequence[Size]) -> list[LabelMap]:
            nonlocal last_start
            if self.idle_seconds() < QUIET_S:
                self._pause(PAUSE_RATIO * (time.monotonic() - last_start), check_cancelled)
            last_start = time.monotonic()
            inputs = [segmenter.preprocess_image(image) for image in images]
            futures = [self.workers.submit(model.segmenters, x, Priority.BACKGROUND) for x in inputs]
            try:
                logits = [wait_cancellable(future, check_cancelled)[0] for future in futures]
            finally:
                for future in futures:
                    future.cancel()
            return [segmenter.postprocess(*pair) for pair in zip(logits, sizes, strict=True)]

        return segment

    def _pause(self, seconds: float, check_cancelled: Callable[[], None]) -> None:
        end = time.monotonic() + seconds
        while (remaining := end - time.monotonic()) > 0:
            check_cancelled()
            time.sleep(min(remaining, POLL_S))


def lower_thread_priority() -> None:
    """Let the threads of users' requests have the CPU first; threads that this one starts inherit its priority (Linux only)."""
    if sys.platform == "linux":  # Elsewhere, setpriority does not take thread ids.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
