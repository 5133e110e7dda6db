"""LabelMe: a JSON file with shapes for each image, which is beside the file or embedded in it.

Source: github.com/wkentaro/labelme, `_label_file.py` and `_utils/shape.py`.
"""

from __future__ import annotations

import base64
import io
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field, ValidationError

from core.data.labels import IGNORE_INDEX
from core.errors import InputError, first_validation_error
from core.runtime.files import list_files
from training.conversion.drawing import (
    Mask,
    blank_labels,
    check_size,
    circle_mask,
    patch_mask,
    polygon_mask,
    rectangle_mask,
)
from training.conversion.export import ConversionOptions, Drawing, Export, ExportImage, Size, add_background, make_classes
from training.conversion.source_files import ImageFinder, read_file, split_of_directory

IGNORED = "__ignore__"  # label of void regions
NUM_POINTS = {"rectangle": 2, "circle": 2, "mask": 2}  # of shapes; polygons have any number


class Shape(BaseModel):
    """An entry of `shapes`. `mask` is a base64-encoded PNG whose upper left corner is the first point."""

    label: str
    points: list[tuple[float, float]]
    shape_type: str | None = None
    mask: str | None = None


class LabelMeFile(BaseModel):
    """A JSON file of LabelMe."""

    shapes: list[Shape]
    image_path: str = Field(alias="imagePath")
    image_data: str | None = Field(None, alias="imageData")
    height: int | None = Field(None, alias="imageHeight")
    width: int | None = Field(None, alias="imageWidth")


def read_export(source: Path, options: ConversionOptions) -> Export:
    """Read all JSON files below `source`. Raises InputError."""
    finder = ImageFinder(source)
    problems: list[str] = []
    images: dict[Path, Path | None] = {}  # of each JSON file; None if the image is embedded
    found: set[str] = set()
    for path in list_files(source):
        if path.suffix.lower() != ".json":
            continue
        try:
            document = _read_document(path)
            images[path] = _find_image(path, document, finder)
        except InputError as error:
            problems.append(str(error))
            continue
        found |= {shape.label for shape in document.shapes} - {IGNORED}
    if not images:
        raise InputError(
            f"{source}: has no usable LabelMe file{': ' * bool(problems)}{'; '.join(problems[:3])}; expected *.json"
        )
    names, fill = add_background(options.classes or sorted(found), options.background)
    values = {name: index for index, name in enumerate(names)} | {IGNORED: IGNORE_INDEX}
    export = Export(make_classes(source, names), [], problems)
    for path, image in images.items():
        embedded = None if image else partial(_read_embedded, path)
        draw = partial(_draw_shapes, path, values, fill)
        export.images.append(ExportImage(image or path, split_of_directory(path, source), draw, embedded))
    return export


def _read_document(path: Path) -> LabelMeFile:
    try:
        return LabelMeFile.model_validate_json(read_file(path))
    except ValidationError as error:
        raise InputError(f"{path}: not a LabelMe file ({first_validation_error(error)})") from None


def _find_image(path: Path, document: LabelMeFile, finder: ImageFinder) -> Path | None:
    """Return the image of a JSON file, or None if it is embedded. Raises InputError if there is none."""
    relative = path.parent / document.image_path.replace("\\", "/")
    if relative.is_file():
        return relative
    try:
        return finder.find(document.image_path, path.parent.name)
    except InputError as error:
        if document.image_data:
            return None
        raise InputError(f"{path}: the image is missing ({error}), and is not embedded") from None


def _read_embedded(path: Path) -> bytes:
    return _decode_base64(path, _read_document(path).image_data or "")


def _decode_base64(path: Path, text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except ValueError as error:
        raise InputError(f"{path}: damaged base64 data ({error})") from None


def _draw_shapes(path: Path, values: dict[str, int], fill: int, size: Size) -> Drawing:
    """Draw the shapes of a JSON file in their order, as LabelMe does: later ones are on top."""
    document = _read_document(path)
    try:
        check_size((document.height, document.width), size)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    labels, problems = blank_labels(size, fill), []
    for number, shape in enumerate(document.shapes):
        if shape.label not in values:
            problems.append(f"{path}: the label {shape.label!r} is not in --classes")
            continue
        try:
            mask = _shape_mask(path, shape, size)
            if not mask.any():
                raise InputError("no pixel in the image")
            labels[mask] = values[shape.label]
        except InputError as error:
            problems.append(f"{path}: shape {number} ({shape.label}) has {error}")
    return labels, problems


def _shape_mask(path: Path, shape: Shape, size: Size) -> Mask:
    """Return the mask of a shape. Raises InputError with what the shape has instead."""
    kind = shape.shape_type or "polygon"  # Old files have no shape_type.
    if kind in ("polygon", "oriented_rectangle"):
        return polygon_mask([shape.points], size)
    if kind not in NUM_POINTS:
        raise InputError(f"the type {kind}, which covers no area")
    if len(shape.points) != NUM_POINTS[kind]:
        raise InputError(f"{len(shape.points)} points; expected {NUM_POINTS[kind]} for the type {kind}")
    if kind == "rectangle":
        return rectangle_mask(shape.points[0], shape.points[1], size)
    if kind == "circle":
        return circle_mask(shape.points[0], shape.points[1], size)
    return patch_mask(_decode_mask(path, shape.mask or ""), *shape.points[0], size)


def _decode_mask(path: Path, text: str) -> Mask:
    try:
        with Image.open(io.BytesIO(_decode_base64(path, text)), formats=("PNG",)) as image:
            mask: Mask = np.asarray(image.convert("L") if image.mode not in ("1", "L") else image).astype(bool)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"a mask that can't be read ({error})") from None
    return mask
