"""Write an export as a dataset in the plain layout: images, label maps, and, when all of them are complete, classes.json."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from core.data.labels import IGNORE_INDEX, LabelSpace
from core.errors import InputError
from core.images.decode import IMAGE_SUFFIXES, decode_image
from core.images.encode import LabelMap, encode_gray_png
from core.images.sanitize import JPEG_SIGNATURE, PNG_SIGNATURE
from core.runtime.atomic import write_atomically
from core.runtime.cpu import NUM_CPUS
from core.runtime.threads import prefetch
from training.conversion.export import Export, ExportImage
from training.conversion.source_files import read_file
from training.tracking.progress_bar import progress_bar

CLASSES_FILE = "classes.json"


def check_destination(source: Path, out: Path) -> None:
    """Raise InputError if `out` is not empty, or is in `source`."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        unfinished = (
            "" if (out / CLASSES_FILE).exists() else f" (without a {CLASSES_FILE}, so a conversion may have been interrupted)"
        )
        raise InputError(f"{out}: already exists{unfinished}; delete it, or choose another directory")
    if out.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{out}: is in {source}, where nothing is written; choose a directory outside of it")


def write_dataset(export: Export, out: Path, copy: bool) -> tuple[Counter[str], list[str]]:
    """Write the images, label maps and classes of an export.

    Args:
        copy: Copy the images instead of making hard links.

    Returns:
        The number of images in each split, and a description of each image or annotation that is not part of the dataset.
        If no image can be converted, nothing is written.
    """
    counts: Counter[str] = Counter()
    problems = list(export.problems)
    with ThreadPoolExecutor(NUM_CPUS) as pool:
        written = prefetch(
            pool, lambda item: _write_sample(*item, out, copy), _name_samples(export.images, problems), 2 * NUM_CPUS
        )
        for split, sample_problems in progress_bar("converting", items=written, total=len(export.images), unit="image"):
            counts += Counter([split] if split else [])
            problems += sample_problems
    if counts:
        os.sync()  # A power failure must not leave a complete-looking dataset.
        write_atomically(out / CLASSES_FILE, [_format_classes(export.classes).encode()])
    return counts, problems


def _name_samples(images: list[ExportImage], problems: list[str]) -> Iterator[tuple[ExportImage, Path]]:
    """Yield each image and its path below the directory of its split, without suffix.

    The tree below the directory that all images of a split have in common is kept. Images whose name is taken are added
    to `problems`.
    """
    paths = {image.path: Path(os.path.normpath(image.path.absolute())) for image in images}  # LabelMe's can contain `..`
    directories: dict[str, list[str]] = {}
    for image in images:
        directories.setdefault(image.split, []).append(str(paths[image.path].parent))
    tops = {split: os.path.commonpath(parents) for split, parents in directories.items()}
    taken: dict[tuple[str, Path], Path] = {}
    for image in images:
        name = paths[image.path].relative_to(tops[image.split]).with_suffix("")
        if (image.split, name) in taken:
            problems.append(f"{image.path}: has the same name as {taken[image.split, name]}; rename one of them")
            continue
        taken[image.split, name] = image.path
        yield image, name


def _write_sample(image: ExportImage, name: Path, out: Path, copy: bool) -> tuple[str | None, list[str]]:
    """Write the files of a sample; return its split, or None if it can't be used, and the problems."""
    problems: list[str] = []
    try:
        data = image.embedded() if image.embedded else read_file(image.path)
        try:
            size = decode_image(data).shape[:2]
        except InputError as error:
            raise InputError(f"{image.path}: {error}") from None
        labels, problems = image.draw((size[0], size[1]))
        _check_labels(image.path, labels, (size[0], size[1]))
    except InputError as error:
        return None, [*problems, str(error)]
    image_path, label_path = (out / kind / image.split / name for kind in ("images", "labels"))
    for path in (image_path, label_path):
        path.parent.mkdir(parents=True, exist_ok=True)
    image_path = image_path.with_name(image_path.name + _suffix(image.path, data))
    if image.embedded:
        image_path.write_bytes(data)
    else:
        _place_image(image.path, image_path, copy)
    label_path.with_name(label_path.name + ".png").write_bytes(encode_gray_png(labels))
    return image.split, problems


def _check_labels(path: Path, labels: LabelMap, size: tuple[int, int]) -> None:
    """Raise InputError if a label map has another size than its image, or no labeled pixel."""
    if labels.shape != size:
        raise InputError(f"{path}: its label is {labels.shape[1]}x{labels.shape[0]}, the image {size[1]}x{size[0]}")
    if (labels == IGNORE_INDEX).all():
        raise InputError(f"{path}: no pixel has a class")


def _suffix(path: Path, data: bytes) -> str:
    """Return the suffix of an image: that of its file, or that of its content if the file has another one."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return path.suffix
    return ".jpg" if data.startswith(JPEG_SIGNATURE) else ".png" if data.startswith(PNG_SIGNATURE) else ".webp"


def _place_image(source: Path, target: Path, copy: bool) -> None:
    """Make a hard link; copy the file if the file system has none, or `copy` is true."""
    if not copy:
        try:
            os.link(source.resolve(), target)  # On Linux, a link to a symbolic link would be a symbolic link.
            return
        except OSError:
            pass
    shutil.copyfile(source, target)


def _format_classes(classes: LabelSpace) -> str:
    """Return the content of classes.json with a line for each class."""
    lines = [json.dumps({"name": name, "color": color}) for name, color in zip(classes.names, classes.colors, strict=True)]
    return f'{{"void": {IGNORE_INDEX}, "classes": [\n  ' + ",\n  ".join(lines) + "\n]}\n"
