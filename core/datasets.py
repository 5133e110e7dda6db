"""Data sets on disk, Cityscapes layout and plain folders: sequences of (photograph, train ids), paired and checked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from core.errors import InputError
from core.images import PHOTO_SUFFIXES, RGB, read_label, read_photo
from core.labels import CITYSCAPES, VOID, LabelSpace, read_classes

Sample = tuple[RGB, npt.NDArray[np.uint8]]  # (H, W, 3) uint8 RGB and (H, W) uint8 train ids, 255 void

LAYOUTS = (
    "expected DIR/leftImg8bit/SPLIT/CITY/*_leftImg8bit.png with DIR/gtFine/SPLIT/CITY/*_gtFine_labelIds.png (Cityscapes),"
    " or DIR/classes.json, DIR/images/SPLIT/*.png|jpg and DIR/labels/SPLIT/*.png"
)


class Dataset(Protocol):
    """What training and evaluation need of a data set; the order of its samples never changes."""

    @property
    def name(self) -> str:
        """The data set's name, for reports."""
        ...

    @property
    def split(self) -> str:
        """The split's name."""
        ...

    @property
    def labels(self) -> LabelSpace:
        """The classes."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@dataclass(frozen=True)
class FolderDataset:
    """Pairs of files; photographs and labels are read when asked for."""

    name: str
    split: str
    labels: LabelSpace
    pairs: Sequence[tuple[Path, Path]]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        return read_photo(self.pairs[index][0]), self.read_labels(index)

    def read_labels(self, index: int) -> npt.NDArray[np.uint8]:
        """(H, W) train ids. Raises InputError naming the file and what is wrong with its values."""
        path = self.pairs[index][1]
        values = read_label(path)
        try:
            return self.labels.encode(values)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def open_dataset(root: Path | str, split: str) -> FolderDataset:
    """Open a split of a data set in one of the two layouts and pair its files.

    Raises InputError: no such folder or split, a photograph without a label, a label without a photograph.
    """
    root = Path(root)
    known = list_splits(root)
    if split not in known:
        raise InputError(f"{root}: no split {split!r}; found: {', '.join(known) or 'none'}")
    if (root / "leftImg8bit").is_dir():
        labels = CITYSCAPES
        photos = _by_key(root / "leftImg8bit" / split, "_leftImg8bit", PHOTO_SUFFIXES)
        targets = _by_key(root / "gtFine" / split, "_gtFine_labelIds", (".png",))
    else:
        labels = read_classes(root / "classes.json")
        photos = _by_key(root / "images" / split, "", PHOTO_SUFFIXES)
        targets = _by_key(root / "labels" / split, "", (".png",))
    if not photos:
        raise InputError(f"{root}: the split {split!r} holds no photographs; {LAYOUTS}")
    _pair_or_raise(root, photos, targets)
    return FolderDataset(root.resolve().name, split, labels, [(photos[key], targets[key]) for key in sorted(photos)])


def list_splits(root: Path) -> list[str]:
    """Names of the splits of a data set. Raises InputError where the folder is not one."""
    if not root.is_dir():
        raise InputError(f"{root}: no such data folder; {LAYOUTS}")
    photos = next((root / kind for kind in ("leftImg8bit", "images") if (root / kind).is_dir()), None)
    if photos is None:
        raise InputError(f"{root}: not a data set; {LAYOUTS}")
    try:
        return sorted(folder.name for folder in photos.iterdir() if folder.is_dir())
    except OSError as error:
        raise InputError(f"{photos}: can't be read ({error.strerror})") from None


def _by_key(folder: Path, ending: str, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Files below `folder` whose stem ends with `ending`, by their relative path without ending and suffix."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in suffixes and path.stem.endswith(ending):
            key = path.relative_to(folder).with_suffix("").as_posix().removesuffix(ending)
            if key in found:
                raise InputError(f"{path}: a second file for the same sample beside {found[key]}; keep one of them")
            found[key] = path
    return found


def _pair_or_raise(root: Path, photos: dict[str, Path], targets: dict[str, Path]) -> None:
    alone = [f"{photos[key]} has no label" for key in sorted(photos.keys() - targets.keys())]
    alone += [f"{targets[key]} has no photograph" for key in sorted(targets.keys() - photos.keys())]
    if alone:
        raise InputError(_listing(f"{root}: every photograph needs its label, and every label its photograph", alone))


def check_dataset(dataset: FolderDataset) -> None:
    """Decode every sample once, so that a broken one is told before the first epoch.

    Raises InputError that lists them: unreadable, values outside the label space, another size, nothing but void.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        problems = [problem for problem in pool.map(lambda i: _problem(dataset, i), range(len(dataset))) if problem]
    if problems:
        raise InputError(_listing(f"{len(problems)} of the {len(dataset)} samples of {dataset.split} can't be used", problems))


def _problem(dataset: FolderDataset, index: int) -> str | None:
    label = dataset.pairs[index][1]
    try:
        rgb, labels = dataset[index]
    except InputError as error:
        return str(error)
    if labels.shape != rgb.shape[:2]:
        return f"{label}: is {labels.shape[1]}x{labels.shape[0]}, its photograph {rgb.shape[1]}x{rgb.shape[0]}"
    if (labels == VOID).all():
        return f"{label}: every pixel is void"
    return None


def _listing(what: str, problems: list[str], most: int = 20) -> str:
    shown = "; ".join(problems[:most])
    return f"{what}: {shown}" + (f"; and {len(problems) - most} more" if len(problems) > most else "")


def batches(count: int, size: int, rank: int = 0, ranks: int = 1) -> Iterator[list[int]]:
    """Indices of a rank's share of `count` samples in batches of `size`; nothing is dropped, nothing stands twice."""
    mine = list(range(rank, count, ranks))
    for start in range(0, len(mine), size):
        yield mine[start : start + size]
