"""How an evaluation goes through the served network: photograph by photograph, beside users' requests, which go first."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence

from core.data.datasets import FolderDataset
from core.evaluation.report import CheckpointInfo, Report, SegmentFn, build_report, evaluate_shard
from core.images.decode import RGB
from core.images.encode import Labels
from core.images.resize import Size
from service.inference.batching import BACKGROUND, Workers
from service.inference.registry import Loaded
from service.middleware.disconnect import LOOK_S, waited_for

NICE = 15  # of 19
BATCH = 1  # photographs at a time: a user's picture waits for few of them
QUIET_S = 1.0  # after a request an evaluation rests between its photographs for so long
REST = 2.0  # times what it worked

RequireWanted = Callable[[], None]


class Scoring:
    """Scores a model through the workers that answer requests; `quiet_s` tells for how long there have been none."""

    def __init__(self, workers: Workers, quiet_s: Callable[[], float] = lambda: math.inf) -> None:
        self.workers, self.quiet_s = workers, quiet_s

    def report(
        self, model: Loaded, dataset: FolderDataset, progress: Callable[[int], None], require_wanted: RequireWanted
    ) -> Report:
        """The report of a whole split. `progress` is told how many photographs are done; `require_wanted` is called whenever
        something is waited for, a drive that hangs among it, and an exception of it ends the evaluation."""
        through = self._through_worker(model, require_wanted)
        tally = evaluate_shard(through, dataset, BATCH, progress=lambda done, _: progress(done), waiting_for_it=require_wanted)
        backend = model.segmenter.backend.name
        info = CheckpointInfo(name=model.name, architecture=model.architecture, digest=model.digest, backend=backend)
        return build_report(tally, info, dataset)

    def _through_worker(self, model: Loaded, require_wanted: RequireWanted) -> SegmentFn:
        """Segments as users' pictures are segmented, at low priority; the pictures are prepared in this thread."""
        segmenter = model.segmenter
        since = time.monotonic()

        def some(photos: Sequence[RGB], sizes: Sequence[Size]) -> list[Labels]:
            nonlocal since
            if self.quiet_s() < QUIET_S:  # rest in proportion to what the last ones took, decoding and counting included
                self._rest(REST * (time.monotonic() - since), require_wanted)
            since = time.monotonic()
            waiting = [self.workers.submit(model.segmenters, segmenter.prepare(rgb), BACKGROUND) for rgb in photos]
            try:  # they wait as long as users' pictures come without a gap
                logits = [waited_for(future, require_wanted)[0] for future in waiting]
            finally:
                for future in waiting:
                    future.cancel()
            return [segmenter.label(each, size) for each, size in zip(logits, sizes, strict=True)]

        return some

    def _rest(self, seconds: float, require_wanted: RequireWanted) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            require_wanted()
            time.sleep(min(left, LOOK_S))


def step_back() -> None:
    """Give the processor to the threads of users' pictures first; those that this thread starts do as it does (Linux)."""
    if sys.platform == "linux":  # elsewhere the number of a thread is not one that this call takes
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
