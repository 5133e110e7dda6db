"""Datasets on disk, in the Cityscapes layout or a plain one: sequences of paired and validated (image, train ids)."""

from __future__ import annotations

import os
import re
import tempfile
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate, chain, count, pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from core.data.labels import CITYSCAPES, IGNORE_INDEX, LabelSpace, read_classes
from core.errors import InputError
from core.images.decode import IMAGE_SUFFIXES, RGB, load_image, read_label
from core.images.limits import MAX_PIXELS
from core.images.resize import Preprocess
from core.runtime.cpu import NUM_CPUS
from core.runtime.files import list_files
from core.runtime.threads import prefetch

Sample = tuple[RGB, npt.NDArray[np.uint8]]  # image (H, W, 3) uint8 RGB, and train ids (H, W) uint8 with IGNORE_INDEX for void

LAYOUTS = (
    "expected DIR/leftImg8bit/SPLIT/CITY/*_leftImg8bit.png with DIR/gtFine/SPLIT/CITY/*_gtFine_labelIds.png (Cityscapes),"
    " or DIR/classes.json, DIR/images/SPLIT/*.png|jpg and DIR/labels/SPLIT/*.png"
)

MAX_PROBLEMS = 20  # in one message

# The label files of Cityscapes by preference; the labels of a split are all of one kind.
CITYSCAPES_LABELS = {
    "_gtFine_labelIds": CITYSCAPES,
    "_gtFine_labelTrainIds": CITYSCAPES.as_train_ids(),
    "_gtFine_color": CITYSCAPES,
}


class Dataset(Protocol):
    """The interface that training and evaluation require of a dataset; the order of its samples never changes."""

    @property
    def name(self) -> str:
        """Name of the dataset, for reports."""
        ...

    @property
    def split(self) -> str:
        """Name of the split."""
        ...

    @property
    def labels(self) -> LabelSpace:
        """The classes."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def sample_name(self, index: int) -> str:
        """Return the name of a sample for messages: the path of its image."""
        ...


@dataclass(frozen=True)
class DirectoryDataset:
    """A split of a dataset on disk: pairs of image and label files, which are decoded at each access."""

    name: str
    split: str
    labels: LabelSpace
    pairs: Sequence[tuple[Path, Path]]  # (image, label)
    file_labels: LabelSpace  # the classes of the label files, with the ids that they have there
    max_pixels: int = MAX_PIXELS  # of an image; a larger one is unusable
    class_map: tuple[int, ...] | None = None  # train id in `labels` of each class of `file_labels`; None if they are the same
    preprocess: Preprocess | None = None  # `reduce_images` sets that of the network.

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Decode a sample.

        Raises:
            InputError: A file is unusable, or the label has another size than the image.
        """
        path = self.pairs[index][0]
        image = load_image(path, self.preprocess.needed_size if self.preprocess else None, self.max_pixels)
        labels = self.read_labels(index)
        if labels.shape != image.size:
            sizes = f"{labels.shape[1]}x{labels.shape[0]}, its image {image.size[1]}x{image.size[0]}"
            hint = "; if the EXIF orientation rotates the image, rotate the label too" * (labels.shape == image.size[::-1])
            raise InputError(f"{path}: its label is {sizes}{hint}")
        return image.pixels, labels

    def sample_name(self, index: int) -> str:
        """Return the path of the image."""
        return str(self.pairs[index][0])

    def read_labels(self, index: int) -> npt.NDArray[np.uint8]:
        """Read the train ids (H, W) uint8 of a sample.

        Raises:
            InputError: The file is unreadable or has values outside the label space; the message starts with the path.
        """
        path = self.pairs[index][1]
        label = read_label(path)
        try:
            train_ids = self.file_labels.encode_label(label)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        if self.class_map is None:
            return train_ids
        table = np.full(256, IGNORE_INDEX, np.uint8)
        table[: len(self.class_map)] = self.class_map
        mapped: npt.NDArray[np.uint8] = table[train_ids]
        return mapped

    def with_labels(self, labels: LabelSpace, extra_as_void: bool = False) -> DirectoryDataset:
        """Return the same samples with the classes `labels`, which are matched by name without regard to case.

        Args:
            extra_as_void: Make the classes that `labels` lacks void instead of raising.

        Raises:
            InputError: `labels` lacks some of the classes.
        """
        class_map = self.labels.class_map(labels)
        extra = [name for name, train_id in zip(self.labels.names, class_map, strict=True) if train_id == IGNORE_INDEX]
        if extra and not extra_as_void:
            shown = ", ".join(map(repr, extra[:8])) + (", ..." if len(extra) > 8 else "")
            raise InputError(
                f"{self.name}: the first data directory has no class {shown}; its classes are {', '.join(labels.names)}."
                f' Rename the class in the classes.json of {self.name}, list its id under "void" there, name the directory with'
                " the most classes first, or ignore the pixels of such classes with --extra-classes void"
            )
        return replace(self, labels=labels, class_map=None if class_map == tuple(range(len(labels))) else class_map)


class ConcatDataset:
    """One or several datasets with the same classes, one after the other.

    Attributes:
        parts: The datasets.
        name: Their names, joined by ` + `.
        split: The name of their splits, joined by ` + ` if they differ.
        labels: The classes.
    """

    def __init__(self, parts: Sequence[Dataset]) -> None:
        self.parts = parts
        self.name = " + ".join(part.name for part in parts)
        self.split = " + ".join(dict.fromkeys(part.split for part in parts))
        self.labels = parts[0].labels
        self._starts = list(accumulate(map(len, parts), initial=0))  # index of the first sample of each part, and the length

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Sample:
        part, index = self._locate(index)
        return part[index]

    def sample_name(self, index: int) -> str:
        """Return the path of the image."""
        part, index = self._locate(index)
        return part.sample_name(index)

    def slices(self) -> list[slice]:
        """Return the indices of the samples of each part."""
        return [slice(start, stop) for start, stop in pairwise(self._starts)]

    def _locate(self, index: int) -> tuple[Dataset, int]:
        number = bisect_right(self._starts, index) - 1
        if not 0 <= number < len(self.parts):
            raise IndexError(index)
        return self.parts[number], index - self._starts[number]


def dataset_names(roots: Sequence[Path | str]) -> list[str]:
    """Return the names of data directories: their own, and NAME-2, NAME-3, ... if several have the same.

    Raises:
        InputError: A directory is listed twice.
    """
    paths = [Path(root).resolve() for root in roots]
    names: list[str] = []
    for number, path in enumerate(paths):
        if path in paths[:number]:
            raise InputError(f"--data: {roots[number]} is listed twice; list each data directory once")
        candidates = chain([path.name], (f"{path.name}-{n}" for n in count(2)))
        names.append(next(name for name in candidates if name not in names))
    return names


def reduce_images(dataset: Dataset, preprocess: Preprocess) -> Dataset:
    """Return a dataset with images as a network gets them in production: JPEGs reduced if `preprocess` says so.

    The labels keep their size.
    """
    if not preprocess.reduce_jpeg:
        return dataset
    if isinstance(dataset, ConcatDataset):
        return ConcatDataset([reduce_images(part, preprocess) for part in dataset.parts])
    return replace(dataset, preprocess=preprocess) if isinstance(dataset, DirectoryDataset) else dataset


def open_dataset(root: Path | str, split: str, train_ids: bool = False) -> DirectoryDataset:
    """Open a split of a dataset in one of the two LAYOUTS.

    Args:
        train_ids: See `find_samples`.

    Raises:
        InputError: There is no such directory or split, or some images and labels are not paired; the message lists
            all of these.
    """
    dataset, pairing_errors = find_samples(root, split, train_ids)
    if pairing_errors:
        raise InputError(format_problems(f"{root}: every image needs a label, and every label an image", pairing_errors))
    return dataset


def find_samples(root: Path | str, split: str, train_ids: bool = False) -> tuple[DirectoryDataset, list[str]]:
    """Return a split's paired files as a dataset, and a description of each file that is not part of a pair.

    Args:
        train_ids: Read the values of the label files as train ids, whatever the files are called.

    Raises:
        InputError: There is no such directory or split, or the split has no images or no labels at all.
    """
    root = Path(root)
    splits = list_splits(root)
    if split not in splits:
        raise InputError(f"{root}: no split {split!r}; found: {', '.join(splits) or 'none'}")
    if (root / "leftImg8bit").is_dir():
        classes, label_dir = CITYSCAPES, root / "gtFine" / split
        images, image_problems = _index_by_stem(root / "leftImg8bit" / split, "_leftImg8bit", IMAGE_SUFFIXES)
        labels, label_problems, file_labels = _index_cityscapes_labels(label_dir)
    else:
        classes, label_dir = read_classes(root / "classes.json"), root / "labels" / split
        images, image_problems = _index_by_stem(root / "images" / split, "", IMAGE_SUFFIXES)
        labels, label_problems = _index_by_stem(label_dir, "", (".png",))
        file_labels = classes
    if images and not labels:
        found = _describe_files(label_dir)
        raise InputError(f"{root}: the split {split!r} has {len(images)} images but no labels in {label_dir}{found}; {LAYOUTS}")
    if not images:
        raise InputError(f"{root}: the split {split!r} has no images; {LAYOUTS}")
    pairing_errors = [f"{images[key]} has no label" for key in sorted(images.keys() - labels.keys())]
    pairing_errors += [f"{labels[key]} has no image" for key in sorted(labels.keys() - images.keys())]
    pairs = [(images[key], labels[key]) for key in sorted(images.keys() & labels.keys())]
    dataset = DirectoryDataset(root.resolve().name, split, classes, pairs, classes.as_train_ids() if train_ids else file_labels)
    return dataset, [*image_problems, *label_problems, *pairing_errors]


def _index_cityscapes_labels(directory: Path) -> tuple[dict[str, Path], list[str], LabelSpace]:
    """Index the first kind of CITYSCAPES_LABELS that has files; return also the label space of their values."""
    for ending, file_labels in CITYSCAPES_LABELS.items():
        labels, problems = _index_by_stem(directory, ending, (".png",))
        if labels:
            return labels, problems, file_labels
    return {}, [], CITYSCAPES


def _describe_files(directory: Path) -> str:
    """Return a phrase about the files of a directory that has no usable label; empty if it has no files."""
    files = list_files(directory)
    jpeg = "; JPEG changes the values at the edges of objects, so labels must be PNG files"
    has_jpeg = any(path.suffix.lower() in (".jpg", ".jpeg") for path in files)
    return f", only {files[0].name} and the like{jpeg * has_jpeg}" if files else ""


def list_splits(root: Path) -> list[str]:
    """Return the names of the splits of a dataset, sorted.

    Raises:
        InputError: `root` does not exist, is not a dataset, or can't be read.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such data directory; {LAYOUTS}")
    images = next((root / name for name in ("leftImg8bit", "images") if (root / name).is_dir()), None)
    if images is None:
        raise InputError(f"{root}: not a dataset; {LAYOUTS}")
    try:
        return sorted(path.name for path in images.iterdir() if path.is_dir())
    except OSError as error:
        raise InputError(f"{images}: can't be read ({error.strerror})") from None


def _index_by_stem(directory: Path, ending: str, suffixes: tuple[str, ...]) -> tuple[dict[str, Path], list[str]]:
    """Map sample keys to the files below `directory` whose stem ends with `ending`, and describe the unusable files.

    The key is the relative path without `ending` and suffix, so that an image and its label have the same key. It is in
    Unicode's normal form C, because macOS writes an accented letter as two characters. The case of `ending` is ignored.
    """
    files: dict[str, Path] = {}
    problems = []
    for path in list_files(directory):
        if path.suffix.lower() in suffixes and path.stem.lower().endswith(ending.lower()):
            stem = path.relative_to(directory).with_suffix("").as_posix()
            key = unicodedata.normalize("NFC", stem[: len(stem) - len(ending)])
            if not _is_unicode(key):
                problems.append(f"{directory}/{os.fsencode(key)!r}: the file name is not valid UTF-8; rename the file")
                continue
            if key in files:
                problems.append(f"{path}: duplicates the sample of {files[key]}; keep one of the two files")
            files.setdefault(key, path)
    return files, problems


def _is_unicode(name: str) -> bool:
    """Return whether a file name can be written to a report: names in another encoding decode to lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def find_problems(
    dataset: DirectoryDataset, rank: int = 0, world_size: int = 1, timeout_s: float | None = None
) -> list[tuple[int, str]]:
    """Decode every sample of a rank's shard once; return the index of each that can't be used, and why.

    Samples whose label is entirely void are valid here: scores can skip them.

    Args:
        rank: Which shard to check, 0..world_size - 1.
        world_size: Number of shards.
        timeout_s: Maximum time to read a sample, in seconds.

    Raises:
        TimeoutError: A sample takes longer than `timeout_s` to read.
    """
    indices = range(rank, len(dataset), world_size)
    problems: list[tuple[int, str]] = []
    checked = 0
    pool = ThreadPoolExecutor(NUM_CPUS)
    try:
        for problem in prefetch(pool, lambda i: sample_problem(dataset, i, allow_all_void=True), indices, 8, timeout_s):
            problems += [(indices[checked], problem)] if problem is not None else []
            checked += 1
    except TimeoutError:
        name = dataset.sample_name(indices[checked])
        raise TimeoutError(f"{name}: could not be read in {timeout_s:g} s; check its drive") from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # without waiting for a read that hangs
    return problems


def sample_problem(dataset: Dataset, index: int, allow_all_void: bool = False) -> str | None:
    """Return why a sample can't be used (the message of the error that `read_sample` raises), or None if it can."""
    try:
        read_sample(dataset, index, allow_all_void)
    except InputError as error:
        return str(error)
    return None


def read_sample(dataset: Dataset, index: int, allow_all_void: bool = False) -> Sample:
    """Read and validate a sample.

    Args:
        allow_all_void: Accept a label that is entirely void: it is useless for training, but scores can skip it.

    Raises:
        InputError: A file is unreadable, the label has values outside the label space or another size than the image,
            or every pixel of it is void.
    """
    rgb, labels = dataset[index]
    if not allow_all_void and (labels == IGNORE_INDEX).all():
        raise InputError(f"{dataset.sample_name(index)}: every pixel of its label is void")
    return rgb, labels


def format_problems(summary: str, problems: list[str]) -> str:
    """Return one line: the summary, then all problems, each of which starts with a path.

    Of more than MAX_PROBLEMS problems it has the most frequent kinds with their numbers and examples, and the name of a
    temporary file that lists all.
    """
    if len(problems) <= MAX_PROBLEMS:
        return f"{summary}: {'; '.join(problems)}"
    kinds: dict[str, list[str]] = {}
    for problem in problems:
        # Problems of one kind differ in the path, which ends at a colon or at the words after it, and in numbers.
        reason = problem.partition(": ")[2] or " ".join(problem.split()[-3:])
        kinds.setdefault(re.sub(r"[\d, x.]*\d", "N", reason), []).append(problem)
    frequent = sorted(kinds.values(), key=len, reverse=True)[:5]
    shown = [f"{len(kind):,} like {', '.join(kind[:3])}" for kind in frequent]
    with tempfile.NamedTemporaryFile("w", prefix="problems-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write("\n".join([summary, *problems]) + "\n")
    return f"{summary}: {'; '.join(shown)}; all are listed in {file.name}"


def sequence_ids(dataset: Dataset) -> list[str]:
    """Return the drive or city of each sample, which is the directory of its image.

    Frames of one drive are not independent, so confidence intervals resample whole drives.
    """
    return [str(Path(dataset.sample_name(index)).parent) for index in range(len(dataset))]


def relative_names(dataset: Dataset) -> list[str]:
    """Return the path of the image of each sample below the directory that all have in common.

    Unlike `Dataset.sample_name`, it is the same on every computer and contains no path of the computer.
    """
    paths = [Path(dataset.sample_name(index)) for index in range(len(dataset))]
    directory = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(directory).as_posix() for path in paths]


def describe_dataset(dataset: Dataset) -> str:
    """Return the description of a dataset in the metadata of scores: name, split and number of images."""
    return f"{dataset.name} {dataset.split}, {len(dataset)} images"


def shard_batches(num_samples: int, batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[list[int]]:
    """Yield the sample indices of a rank's shard in batches; over all ranks, each index occurs exactly once."""
    shard = list(range(rank, num_samples, world_size))
    for start in range(0, len(shard), batch_size):
        yield shard[start : start + batch_size]
