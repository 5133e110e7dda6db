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

from core.data.labels import CITYSCAPES, VOID, LabelSpace, read_classes
from core.errors import InputError
from core.images.decode import PHOTO_SUFFIXES, RGB, read_label, read_photo
from core.runtime.cpu import CORES
from core.runtime.files import files_below
from core.runtime.threads import prefetch

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

    def where(self, index: int) -> str:
        """What to call a sample in a message: its photograph's path."""
        ...


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

    def where(self, index: int) -> str:
        """The photograph's path."""
        return str(self.pairs[index][0])

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
    dataset, alone = find_samples(root, split)
    if alone:
        raise InputError(listing(f"{root}: every photograph needs its label, and every label its photograph", alone))
    return dataset


def find_samples(root: Path | str, split: str) -> tuple[FolderDataset, list[str]]:
    """A split's pairs of files, and what is wrong with the files that are not one of a pair.

    Raises InputError where there is no such folder or split, or no photograph in it.
    """
    root = Path(root)
    known = list_splits(root)
    if split not in known:
        raise InputError(f"{root}: no split {split!r}; found: {', '.join(known) or 'none'}")
    if (root / "leftImg8bit").is_dir():
        labels = CITYSCAPES
        photos, doubles = _by_key(root / "leftImg8bit" / split, "_leftImg8bit", PHOTO_SUFFIXES)
        targets, others = _by_key(root / "gtFine" / split, "_gtFine_labelIds", (".png",))
    else:
        labels = read_classes(root / "classes.json")
        photos, doubles = _by_key(root / "images" / split, "", PHOTO_SUFFIXES)
        targets, others = _by_key(root / "labels" / split, "", (".png",))
    if photos and not targets:
        where = root / ("gtFine" if labels is CITYSCAPES else "labels") / split
        raise InputError(f"{root}: {len(photos)} photographs and no labels: there are none in {where}; {LAYOUTS}")
    if not photos:
        raise InputError(f"{root}: the split {split!r} holds no photographs; {LAYOUTS}")
    alone = [f"{photos[key]} has no label" for key in sorted(photos.keys() - targets.keys())]
    alone += [f"{targets[key]} has no photograph" for key in sorted(targets.keys() - photos.keys())]
    pairs = [(photos[key], targets[key]) for key in sorted(photos.keys() & targets.keys())]
    return FolderDataset(root.resolve().name, split, labels, pairs), [*doubles, *others, *alone]


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


def _by_key(folder: Path, ending: str, suffixes: tuple[str, ...]) -> tuple[dict[str, Path], list[str]]:
    """Files below `folder` whose stem ends with `ending`, by their relative path without ending and suffix; and what
    is wrong with the others."""
    found: dict[str, Path] = {}
    doubles = []
    for path in files_below(folder):
        if path.suffix.lower() in suffixes and path.stem.endswith(ending):
            key = path.relative_to(folder).with_suffix("").as_posix().removesuffix(ending)
            if not _is_text(key):
                doubles.append(f"{folder}/{os.fsencode(key)!r}: its name is no UTF-8; rename it")
                continue
            if key in found:
                doubles.append(f"{path}: a second file for the same sample beside {found[key]}; keep one of them")
            found.setdefault(key, path)
    return found, doubles


def _is_text(name: str) -> bool:
    """Whether a name can be written into a report: one of another encoding than the system's can't."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def check_dataset(dataset: FolderDataset) -> None:
    """Decode every sample once, so that a broken one is told before the work.

    Raises InputError that lists what `read_sample` tells of them.
    """
    with ThreadPoolExecutor(CORES) as pool:
        samples = prefetch(pool, lambda index: read_sample(dataset, index, void=True), range(len(dataset)), ahead=8)
        problems = [sample for sample in samples if isinstance(sample, str)]
    if problems:
        raise InputError(listing(f"{len(problems)} of the {len(dataset)} samples of {dataset.split} can't be used", problems))


def read_sample(dataset: Dataset, index: int, void: bool = False) -> Sample | str:
    """A sample, or what makes it useless: unreadable, values outside the label space, another size, and nothing but `void`,
    unless that is allowed: there is nothing to learn from it, but scores can pass it over."""
    try:
        rgb, labels = dataset[index]
    except InputError as error:
        return str(error)
    if labels.shape != rgb.shape[:2]:
        sizes = f"{labels.shape[1]}x{labels.shape[0]}, its photograph {rgb.shape[1]}x{rgb.shape[0]}"
        turned = "; where its EXIF orientation turns it, the label has to be turned, too" * (labels.shape == rgb.shape[1::-1])
        return f"{dataset.where(index)}: its label is {sizes}{turned}"
    if not void and (labels == VOID).all():
        return f"{dataset.where(index)}: every pixel of its label is void"
    return rgb, labels


def listing(what: str, problems: list[str]) -> str:
    """One line that tells what is wrong and lists all problems."""
    return f"{what}: {'; '.join(problems)}"


def drives(dataset: Dataset) -> list[str]:
    """The drive or city of each sample: the folder of its photograph. Frames of one drive are not independent."""
    return [str(Path(dataset.where(index)).parent) for index in range(len(dataset))]


def described(dataset: Dataset) -> str:
    """What a card says of the data that its scores are of."""
    return f"{dataset.name} {dataset.split}, {len(dataset)} images"


def batches(count: int, size: int, rank: int = 0, ranks: int = 1) -> Iterator[list[int]]:
    """Indices of a rank's share of `count` samples in batches of `size`; nothing is dropped, nothing stands twice."""
    mine = list(range(rank, count, ranks))
    for start in range(0, len(mine), size):
        yield mine[start : start + size]
