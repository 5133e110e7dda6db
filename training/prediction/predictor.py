"""Prediction for files: segments images and videos with one network, and records the results in the manifest."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from core.errors import InputError
from core.images.decode import RGB, read_image
from core.images.encode import encode_gray_png, encode_indexed_png
from core.inference.options import InferenceOptions
from core.inference.result import SegmentationResult
from core.inference.segmenter import Segmenter
from core.runtime.atomic import makedirs_durable, write_atomically
from core.runtime.threads import prefetch
from training.prediction.jobs import Job
from training.prediction.manifest import Fingerprint, PredictionManifest, ResultInfo
from training.prediction.video import segment_video
from training.tracking.progress_bar import progress_bar

PREFETCH_IMAGES = 4  # decoded while one is segmented


class Outcome(NamedTuple):
    """The result of a job, whether it is of an earlier run, and whether it replaced one made with other settings."""

    result: ResultInfo
    reused: bool = False
    replaced: bool = False


class Predictor:
    """Segments files with one network and one set of options.

    Args:
        segmenter: The network.
        options: How an image goes through it.
        out: Directory of the results and of their manifest.
        ids: Pixel values of a mask: `train` for class indices, `label` for the dataset's label ids.
        rendering: What a video shows, a key of RENDERERS.
        rank: Rank of this process, for its own manifest file.
    """

    def __init__(
        self, segmenter: Segmenter, options: InferenceOptions, out: Path, ids: str, rendering: str, rank: int = 0
    ) -> None:
        self.segmenter, self.options, self.ids, self.rendering = segmenter, options, ids, rendering
        self.settings = {
            "backend": segmenter.backend.name,
            "digest": segmenter.backend.digest,
            "ids": ids,
            "resolution": "native" if options.tiled else "network",
            "flip": options.hflip_tta,
        }
        self.manifest = PredictionManifest(out, self.settings, rank)

    def find_finished(self, jobs: list[Job]) -> dict[Job, ResultInfo]:
        """Return the recorded results of the jobs that an earlier run finished with the same settings."""
        return {job: result for job in jobs if (result := self.manifest.lookup(job)) is not None}

    def run_jobs(self, jobs: list[Job], show_progress: bool) -> list[Outcome]:
        """Run the jobs and return their outcomes, in the same order. A file that can't be read does not stop the others."""
        replaced = {job for job in jobs if self.manifest.is_stale(job)}
        images = [job for job in jobs if not job.is_video]
        results = dict(self._segment_images(images, show_progress and len(images) > 1))
        results |= {job: self._segment_video(job) for job in jobs if job.is_video}
        return [Outcome(results[job], replaced=job in replaced) for job in jobs]

    def segment(self, rgb: RGB) -> SegmentationResult:
        """Segment an image or a frame."""
        (label_map,) = self.segmenter.predict_batch([rgb], options=self.options)
        return SegmentationResult(rgb, label_map, self.segmenter.labels)

    def _segment_images(self, jobs: list[Job], show_progress: bool) -> Iterator[tuple[Job, ResultInfo]]:
        """Yield each image's result; the next images are decoded meanwhile."""
        with ThreadPoolExecutor(2) as pool:
            decoded = zip(jobs, prefetch(pool, self._read_image, jobs, PREFETCH_IMAGES), strict=True)
            for job, image in progress_bar("predicting", show_progress, decoded, total=len(jobs), unit="image"):
                yield job, _report_failure(image) if isinstance(image, Exception) else self._write_image(job, *image)

    def _read_image(self, job: Job) -> tuple[Fingerprint, RGB] | Exception:
        """Return a decoded image, or the error: raised in the thread pool it would end the iteration over the others."""
        try:
            return self.manifest.fingerprint(job), read_image(job.source)
        except (InputError, OSError) as error:
            return error

    def _write_image(self, job: Job, fingerprint: Fingerprint, rgb: RGB) -> ResultInfo:
        result = self.segment(rgb)
        mask, *overlays = job.targets
        self.manifest.invalidate(job)
        makedirs_durable(mask.parent)
        write_atomically(mask, [encode_mask(result, self.ids)])
        for path in overlays:
            result.save(path, overlay=True)
        info = {"size": list(result.size), "shares": result.class_fractions}
        self.manifest.record(job, fingerprint, info)
        return info

    def _segment_video(self, job: Job) -> ResultInfo:
        try:
            fingerprint = self.manifest.fingerprint(job)
            self.manifest.invalidate(job)
            summary = segment_video(job.source, job.targets[0], self.segment, self.rendering)
        except (InputError, FileNotFoundError) as error:
            return _report_failure(error)
        info = {
            "size": list(summary.size),
            "frames": summary.frames,
            "rate": summary.frame_rate,
            "shares": summary.class_fractions,
        }
        self.manifest.record(job, fingerprint, info)
        return info


def encode_mask(result: SegmentationResult, ids: str) -> bytes:
    """Encode a mask as PNG: class indices with a palette (`train`), or label ids in 8-bit or 16-bit gray (`label`)."""
    if ids == "train":
        return encode_indexed_png(result.labels, result.classes)
    values = result.classes.decode(result.labels)
    return encode_gray_png(values.astype(np.uint8) if max(result.classes.ids) < 256 else values)


def _report_failure(error: Exception) -> ResultInfo:
    tqdm.write(f"error: {error}", file=sys.stderr)
    return {"error": str(error)}
