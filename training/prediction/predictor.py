"""Prediction for files: segments images and videos with one network, and records the results in the manifest."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from core.errors import InputError
from core.images.decode import RGB, LoadedImage
from core.images.encode import encode_confidence_png, encode_gray_png, encode_indexed_png, encode_png
from core.images.limits import MAX_PIXELS
from core.inference.options import InferenceOptions
from core.inference.result import SegmentationResult
from core.inference.segmenter import Segmenter
from core.runtime.atomic import makedirs_durable, write_atomically
from core.runtime.cpu import NUM_CPUS
from core.runtime.threads import prefetch
from training.prediction.jobs import Job
from training.prediction.manifest import Fingerprint, PredictionManifest, ResultInfo
from training.tracking.progress_bar import progress_bar

THREADS = min(4, NUM_CPUS)  # that decode images, and as many that encode masks, while the network runs
MAX_PENDING = 2 * THREADS  # decoded images, and results to write, that are in memory

Decoded = tuple[Fingerprint, LoadedImage]
Segmented = tuple[Job, Fingerprint | None, SegmentationResult | ResultInfo]  # a ResultInfo if the image could not be read


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
        legend: Whether overlays and videos have a legend.
        rank: Rank of this process, for its own manifest file.
        max_pixels: Maximum number of pixels of an image.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        options: InferenceOptions,
        out: Path,
        ids: str,
        rendering: str,
        legend: bool = False,
        rank: int = 0,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.max_pixels, self.out, self.rank = max_pixels, out, rank
        self.segmenter, self.options, self.ids, self.rendering, self.legend = segmenter, options, ids, rendering, legend
        self.settings = {
            "backend": segmenter.backend.name,
            "digest": segmenter.backend.digest,
            "ids": ids,
            "resolution": "native" if options.tiled else "network",
            "flip": options.hflip_tta,
            **({"legend": True} if legend else {}),  # Without it, results of earlier releases are not made again.
        }

    @cached_property
    def manifest(self) -> PredictionManifest:
        """The manifest of the output directory, which a result to standard output does not need."""
        return PredictionManifest(self.out, self.settings, self.rank)

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

    def segment_to_png(self, job: Job, kind: str) -> tuple[bytes, ResultInfo]:
        """Segment one image; return its mask, `overlay` or `confidence` as PNG, empty if it can't be read, and its result."""
        try:
            image = self._load(job)
        except (InputError, OSError) as error:
            return b"", _report_failure(error)
        (result,) = self.segmenter.segment_batch([image], self.options, confidence=kind == "confidence")
        return self._encode(result, kind), _describe(result)

    def segment(self, rgb: RGB) -> SegmentationResult:
        """Segment an image or a frame."""
        return self.segmenter.segment_batch([self.segmenter.load_image(rgb)], self.options)[0]

    def _segment_images(self, jobs: list[Job], show_progress: bool) -> Iterator[tuple[Job, ResultInfo]]:
        """Yield each image's result, in order; the next images are decoded and earlier masks encoded meanwhile."""
        with ThreadPoolExecutor(THREADS) as readers, ThreadPoolExecutor(THREADS) as writers:
            decoded = prefetch(readers, self._read_image, jobs, MAX_PENDING)
            written = prefetch(writers, self._write_result, self._segment_batches(jobs, decoded), MAX_PENDING)
            for job, fingerprint, info in progress_bar("predicting", show_progress, written, total=len(jobs), unit="image"):
                if fingerprint is not None:
                    self.manifest.record(job, fingerprint, info)
                yield job, info

    def _read_image(self, job: Job) -> Decoded | Exception:
        """Return a decoded image, or the error: raised in the thread pool it would end the iteration over the others."""
        try:
            return self.manifest.fingerprint(job), self._load(job)
        except (InputError, OSError) as error:
            return error

    def _load(self, job: Job) -> LoadedImage:
        return self.segmenter.load_image(job.data or job.source, self.options, self.max_pixels, "standard input")

    def _segment_batches(self, jobs: list[Job], decoded: Iterator[Decoded | Exception]) -> Iterator[Segmented]:
        """Yield what the network makes of each image; as many images run together as the backend prefers."""
        batch_size = self.segmenter.backend.batch_size
        for start in range(0, len(jobs), batch_size):
            batch = list(zip(jobs[start : start + batch_size], decoded, strict=False))
            images = [image[1] for _, image in batch if not isinstance(image, Exception)]
            confidence = any(_is_confidence(path) for job, _ in batch for path in job.targets[1:])
            results = iter(self.segmenter.segment_batch(images, self.options, confidence))
            for job, image in batch:
                if isinstance(image, Exception):
                    yield job, None, _report_failure(image)
                    continue
                self.manifest.invalidate(job)
                yield job, image[0], next(results)

    def _write_result(self, segmented: Segmented) -> tuple[Job, Fingerprint | None, ResultInfo]:
        """Write the files of an image, if it could be segmented, and return what to record."""
        job, fingerprint, result = segmented
        if not isinstance(result, SegmentationResult):
            return job, None, result
        mask, *others = job.targets
        makedirs_durable(mask.parent)
        write_atomically(mask, [self._encode(result, "mask")])
        for path in others:
            write_atomically(path, [self._encode(result, "confidence" if _is_confidence(path) else "overlay")])
        return job, fingerprint, _describe(result)

    def _encode(self, result: SegmentationResult, kind: str) -> bytes:
        """Encode the mask, the `overlay` or the `confidence` of an image as PNG."""
        if kind == "overlay":
            return encode_png(result.overlay(legend=self.legend))
        if kind == "confidence" and result.confidence is not None:
            return encode_confidence_png(result.confidence)
        return encode_mask(result, self.ids)

    def _segment_video(self, job: Job) -> ResultInfo:
        from training.prediction.video import segment_video  # needs PyAV, which images do not

        try:
            fingerprint = self.manifest.fingerprint(job)
            self.manifest.invalidate(job)
            summary = segment_video(job.url or job.source, job.targets[0], self.segment, self.rendering, self.legend)
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


def _describe(result: SegmentationResult) -> ResultInfo:
    return {"size": list(result.size), "shares": result.class_fractions}


def _is_confidence(path: Path) -> bool:
    return path.stem.endswith("_confidence")


def _report_failure(error: Exception) -> ResultInfo:
    tqdm.write(f"error: {error}", file=sys.stderr)
    return {"error": str(error)}
