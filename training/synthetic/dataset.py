"""Generated street scenes as a dataset: `--data synthetic`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from core.data.datasets import Sample
from core.data.labels import CITYSCAPES, LabelSpace
from core.errors import InputError
from core.images.encode import encode_gray_png, encode_png
from core.runtime.atomic import write_atomically
from training.synthetic.scenes import street_scene

SYNTHETIC = "synthetic"  # value of --data
SYNTHETIC_COUNTS = {"train": 200, "val": 50}  # scenes per split
SYNTHETIC_SIZE = (256, 512)  # height, width in pixels
CITY = "generated"  # in the paths of written scenes, which are those of the Cityscapes layout


@dataclass(frozen=True)
class SyntheticDataset:
    """Street scenes with Cityscapes classes, generated on access; the same for the same split, size and seed."""

    split: str
    count: int
    size: tuple[int, int] = SYNTHETIC_SIZE
    seed: int = 0
    name: str = SYNTHETIC
    labels: LabelSpace = CITYSCAPES

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return _scene(self.seed, self.split, index, self.size)

    def sample_name(self, index: int) -> str:
        """Return a name for messages, such as `val scene 3`."""
        return f"{self.split} scene {index}"


@lru_cache(maxsize=512)
def _scene(seed: int, split: str, index: int, size: tuple[int, int]) -> Sample:
    rgb, label_ids = street_scene(np.random.default_rng(scene_seed(seed, split, index)), *size)
    return rgb, CITYSCAPES.encode(label_ids)


def scene_seed(seed: int, split: str, index: int) -> tuple[int, int, int]:
    """Return the seed of a scene; those of the two splits never coincide."""
    return seed, ("train", "val").index(split), index


def open_synthetic(split: str) -> SyntheticDataset:
    """Return a split of the generated scenes. Raises InputError for an unknown split."""
    if split not in SYNTHETIC_COUNTS:
        raise InputError(f"--split: the synthetic data has no split {split!r}; choose from {', '.join(SYNTHETIC_COUNTS)}")
    return SyntheticDataset(split, SYNTHETIC_COUNTS[split])


def write_scene(directory: Path, split: str, index: int, size: tuple[int, int], seed: int) -> None:
    """Write a scene's image and label ids as PNG files of a dataset in Cityscapes layout."""
    rgb, label_ids = street_scene(np.random.default_rng(scene_seed(seed, split, index)), *size)
    for kind, ending, data in (
        ("leftImg8bit", "leftImg8bit", encode_png(rgb)),
        ("gtFine", "gtFine_labelIds", encode_gray_png(label_ids)),
    ):
        path = directory / kind / split / CITY / f"{CITY}_{index:06d}_000019_{ending}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, [data])
