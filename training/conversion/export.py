"""What every format is read into: the classes of an export, its images, and how the label map of each image is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from core.data.labels import IGNORE_INDEX, Color, LabelSpace
from core.errors import InputError, first_validation_error
from core.images.decode import read_label
from core.images.encode import LabelMap

Size = tuple[int, int]  # height, width in pixels
Drawing = tuple[LabelMap, list[str]]  # a label map, and a description of each annotation that is not part of it


@dataclass(frozen=True)
class ConversionOptions:
    """The flags of `convert` that concern a format.

    Attributes:
        background: Name of the class of pixels without annotation; None: they are void.
        classes: The value of --classes, split at commas; None: all classes.
    """

    background: str | None = None
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class ExportImage:
    """An image of an export.

    Attributes:
        path: The image file. Its name becomes that of the sample.
        split: Name of the split.
        draw: Returns the label map for the size of the image. Raises InputError if there is none.
        embedded: Returns the encoded image if it is part of the file `path` instead of being that file.
    """

    path: Path
    split: str
    draw: Callable[[Size], Drawing]
    embedded: Callable[[], bytes] | None = None


@dataclass
class Export:
    """The content of an export.

    Attributes:
        classes: The classes; `draw` returns their indices.
        images: The images.
        problems: A description of each image or annotation that can't be converted; it starts with a path.
    """

    classes: LabelSpace
    images: list[ExportImage]
    problems: list[str] = field(default_factory=list)


def make_classes(source: Path, names: Sequence[str], colors: Sequence[Color] | None = None) -> LabelSpace:
    """Return classes whose ids are their indices. Without `colors`, they have those of PASCAL VOC's color map.

    Raises:
        InputError: Names or colors are not unique, or there are none or more than 255.
    """
    colors = colors or [voc_color(index + 1) for index in range(len(names))]
    try:
        return LabelSpace(name=source.name, names=tuple(names), ids=tuple(range(len(names))), colors=tuple(colors))
    except ValidationError as error:
        raise InputError(
            f"{source}: the classes can't be used ({first_validation_error(error)}); expected 2 to 255 classes with unique"
            " names and colors"
        ) from None


def voc_color(index: int) -> Color:
    """Return a color of PASCAL VOC's color map: the lowest bits of the index, 0..255, are the highest of the channels.

    Source: VOC2012 development kit, `VOClabelcolormap`.
    """
    red, green, blue = (sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8)) for channel in range(3))
    return red, green, blue


def add_background(names: Sequence[str], background: str | None) -> tuple[tuple[str, ...], int]:
    """Return the class names, preceded by `background` unless it is one of them, and the index of pixels without annotation."""
    if background is None:
        return tuple(names), IGNORE_INDEX
    names = names if background in names else (background, *names)
    return tuple(names), names.index(background)


def pair_files(
    export: Export, split: str, images: dict[str, Path], labels: dict[str, Path], draw: Callable[[Path, Size], Drawing]
) -> None:
    """Add the images that have a label file with the same key to an export, and the other files to its problems."""
    for key in sorted(images.keys() | labels.keys()):
        if key not in labels:
            export.problems.append(f"{images[key]} has no label")
        elif key not in images:
            export.problems.append(f"{labels[key]} has no image")
        else:
            export.images.append(ExportImage(images[key], split, partial(draw, labels[key])))


def read_label_file(space: LabelSpace, path: Path, size: Size) -> Drawing:
    """Read a label PNG with ids, a palette or colors of `space` as class indices. Raises InputError."""
    try:
        return space.encode_label(read_label(path)), []
    except InputError as error:
        raise InputError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None
