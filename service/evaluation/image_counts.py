"""The counts of each image of an evaluation, which a paired comparison with another evaluation needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from core.checkpoints import safetensors_io
from core.errors import InputError
from core.evaluation.difference import Difference, paired_differences

MAX_BYTES = 2_000_000  # the size limit of a file: names and counts of about 7,000 images with 19 classes


@dataclass(frozen=True)
class ImageCounts:
    """Counts of each image of an evaluation.

    Attributes:
        names: Name of each image, from `relative_names`.
        per_image: `metrics.class_totals` of each image, (N, 3, K) int64.
    """

    names: list[str]
    per_image: npt.NDArray[np.int64]

    def write(self, path: Path) -> None:
        """Write a file, unless it would exceed MAX_BYTES. Raises OSError."""
        counts = self.per_image.astype(np.uint32)  # An image has fewer than 2^32 pixels.
        names = np.frombuffer("\0".join(self.names).encode(), np.uint8)
        if counts.nbytes + names.nbytes <= MAX_BYTES:
            safetensors_io.write(path, {"schema_version": 1}, {"names": names, "per_image": counts})

    @classmethod
    def read(cls, path: Path) -> ImageCounts:
        """Read and verify a file. Raises CheckpointError."""
        _, tensors = safetensors_io.read(path)
        return cls(tensors["names"].tobytes().decode().split("\0"), tensors["per_image"].astype(np.int64))


class ClassDifference(BaseModel):
    """The difference of the IoU of one class."""

    name: str
    iou: Difference


class ReportDifference(BaseModel):
    """The scores of an evaluation minus those of another one on the same images, with paired 95 % intervals.

    Attributes:
        id: The evaluation.
        base: The evaluation whose scores are subtracted.
        scores: Differences of the scores by their names in the report.
        classes: Differences of the IoU of each class.
    """

    id: str
    base: str
    scores: dict[str, Difference]
    classes: list[ClassDifference]


def compare_counts(
    counts: ImageCounts, base: ImageCounts, class_names: list[str]
) -> tuple[dict[str, Difference], list[ClassDifference]]:
    """Return the differences of the scores and those of the classes.

    Raises:
        InputError: The images or their labels are not the same, so that the scores can't be paired.
    """
    if counts.names != base.names:
        numbers = f"{len(counts.names)} and {len(base.names)}"
        raise InputError(f"they were run on different images ({numbers}), because the dataset has changed; run both again")
    changed = int((counts.per_image[:, 1] != base.per_image[:, 1]).any(-1).sum())
    if changed:
        raise InputError(f"the labels of {changed} images have changed between them; run both again")
    sequences = [str(PurePath(name).parent) for name in counts.names]
    scores, classes = paired_differences(counts.per_image, base.per_image, sequences)
    return scores, [ClassDifference(name=name, iou=iou) for name, iou in zip(class_names, classes, strict=True)]
