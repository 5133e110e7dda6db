"""COCO: JSON files with polygons or run lengths (instances), or with a PNG of segment ids for each image (panoptic).

Also the COCO exports of CVAT, Label Studio, Roboflow and others. Source: https://cocodataset.org/#format-data
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ValidationError

from core.data.labels import IGNORE_INDEX, Color
from core.errors import InputError, first_validation_error
from core.images.decode import read_label
from core.runtime.files import list_files
from training.conversion.drawing import (
    Mask,
    blank_labels,
    check_size,
    draw_smaller_over_larger,
    polygon_mask,
    run_length_mask,
)
from training.conversion.export import ConversionOptions, Drawing, Export, ExportImage, Size, add_background, make_classes
from training.conversion.source_files import SPLIT_NAMES, ImageFinder, as_split, read_file, split_of_directory

OTHER_TASKS = ("captions_", "person_keypoints_", "image_info_")  # files of the same images without segmentation
PANOPTIC, INSTANCES = "panoptic_", "instances_"


class CocoImage(BaseModel):
    """An entry of `images`."""

    id: int | str
    file_name: str
    height: int | None = None
    width: int | None = None


class CocoCategory(BaseModel):
    """An entry of `categories`; `color` is in panoptic files only."""

    id: int | str
    name: str
    color: Color | None = None


class RunLengths(BaseModel):
    """A mask as run lengths: a list, or compressed to a string."""

    size: tuple[int, int]
    counts: list[int] | str


class Segment(BaseModel):
    """An entry of `segments_info`: the category of an id in the PNG."""

    id: int
    category_id: int | str


class CocoAnnotation(BaseModel):
    """An entry of `annotations`: an object of an image, or all segments of an image in a panoptic file."""

    image_id: int | str
    id: int | str | None = None
    category_id: int | str | None = None
    segmentation: list[list[float]] | RunLengths | None = None
    file_name: str | None = None
    segments_info: list[Segment] | None = None


class CocoFile(BaseModel):
    """An annotation file."""

    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


def read_export(source: Path, options: ConversionOptions) -> Export:
    """Read all annotation files at or below `source`, a directory or a file. Raises InputError."""
    documents, problems = _read_files(source)
    categories = next(iter(documents.values())).categories
    for path, document in documents.items():
        if document.categories != categories:
            raise InputError(
                f"{path}: its categories differ from those of {next(iter(documents))}; convert each file by itself"
            )
    names, fill = add_background([category.name for category in categories], options.background)
    values: dict[int | str | None, int] = {category.id: names.index(category.name) for category in categories}
    root = source if source.is_dir() else _image_root(source)
    export = Export(make_classes(source, names, _category_colors(categories, names)), [], problems)
    finder = ImageFinder(root, [path.with_suffix("") for path in documents])  # without the PNGs of segments
    for path, document in documents.items():
        _add_images(export, path, document, finder, values, fill)
    return export


def _read_files(source: Path) -> tuple[dict[Path, CocoFile], list[str]]:
    """Return the annotation files by path, and why other JSON files are not used. Raises InputError if there is none."""
    paths = [source] if source.is_file() else [path for path in list_files(source) if path.suffix.lower() == ".json"]
    panoptic_splits = {path.with_name(path.name[len(PANOPTIC) :]) for path in paths if path.name.startswith(PANOPTIC)}
    documents: dict[Path, CocoFile] = {}
    problems = []
    for path in paths:
        if path.name.startswith(OTHER_TASKS):
            problems.append(f"{path}: has no segmentation")
        elif path.name.startswith(INSTANCES) and path.with_name(path.name[len(INSTANCES) :]) in panoptic_splits:
            problems.append(f"{path}: there is a panoptic file of the same images, which labels every pixel")
        else:
            try:
                documents[path] = CocoFile.model_validate_json(read_file(path))
            except ValidationError as error:
                problems.append(f"{path}: not a COCO annotation file ({first_validation_error(error)})")
    if not documents:
        raise InputError(
            f"{source}: has no COCO annotation file{': ' * bool(problems)}{'; '.join(problems[:3])}; expected a JSON file with"
            " the lists images, annotations and categories"
        )
    return documents, problems


def _image_root(path: Path) -> Path:
    """Return the directory below which the images of an annotation file are."""
    return path.parent.parent if path.parent.name == "annotations" else path.parent


def _category_colors(categories: list[CocoCategory], names: tuple[str, ...]) -> list[Color] | None:
    """Return the colors of the classes if all categories have a color and these are unique."""
    colors = [category.color for category in categories if category.color]
    if len(set(colors)) < len(categories) or len(names) > len(categories):
        return None
    return colors


def _split_name(path: Path, finder: ImageFinder) -> tuple[str, str]:
    """Return the split of an annotation file, and its name in the source, such as `train` and `train2017`."""
    name = path.stem.removeprefix(PANOPTIC).removeprefix(INSTANCES)
    if name != path.stem or as_split(name) in SPLIT_NAMES:
        return as_split(name), name
    split = split_of_directory(path, finder.source)
    return split, split


def _add_images(
    export: Export, path: Path, document: CocoFile, finder: ImageFinder, values: dict[int | str | None, int], fill: int
) -> None:
    """Add the images of an annotation file to an export."""
    split, source_name = _split_name(path, finder)
    annotations: dict[int | str, list[CocoAnnotation]] = {image.id: [] for image in document.images}
    for annotation in document.annotations:
        if annotation.image_id in annotations:
            annotations[annotation.image_id].append(annotation)
        else:
            export.problems.append(f"{path}: annotation {annotation.id} has the unknown image_id {annotation.image_id}")
    is_panoptic = any(annotation.segments_info is not None for annotation in document.annotations)
    for image in document.images:
        try:
            image_path = finder.find(image.file_name, source_name, path.parent.name)
        except InputError as error:
            export.problems.append(str(error))
            continue
        draw = partial(_draw_segments, path.with_suffix("")) if is_panoptic else _draw_objects
        drawing = partial(draw, image_path, image, annotations[image.id], values, fill)
        export.images.append(ExportImage(image_path, split, drawing))


def _draw_objects(
    image_path: Path,
    image: CocoImage,
    annotations: Sequence[CocoAnnotation],
    values: dict[int | str | None, int],
    fill: int,
    size: Size,
) -> Drawing:
    """Draw the objects of an image. Those of an undeclared category are void."""
    _check_image_size(image_path, image, size)
    labels, problems = blank_labels(size, fill), []

    def masks() -> Iterator[tuple[int, Mask]]:
        for annotation in annotations:
            try:
                mask = _object_mask(annotation, size)
            except InputError as error:
                problems.append(f"{image_path}: annotation {annotation.id} has {error}")
                continue
            if annotation.category_id not in values:
                problems.append(
                    f"{image_path}: annotation {annotation.id} has the undeclared category_id {annotation.category_id}"
                )
            yield values.get(annotation.category_id, IGNORE_INDEX), mask

    draw_smaller_over_larger(labels, masks())
    return labels, problems


def _object_mask(annotation: CocoAnnotation, size: Size) -> Mask:
    """Return the mask of an object. Raises InputError with what the annotation has instead."""
    segmentation = annotation.segmentation
    if not segmentation:
        raise InputError("no segmentation")
    if isinstance(segmentation, RunLengths):
        mask = run_length_mask(segmentation.counts, segmentation.size, size)
    else:
        mask = polygon_mask(segmentation, size)  # type: ignore[arg-type]
    if not mask.any():
        raise InputError("no pixel in the image")
    return mask


def _draw_segments(
    directory: Path,
    image_path: Path,
    image: CocoImage,
    annotations: Sequence[CocoAnnotation],
    values: dict[int | str | None, int],
    fill: int,
    size: Size,
) -> Drawing:
    """Draw the segments of an image from its PNG, whose colors are the ids: red + 256 green + 65536 blue; 0 is unlabeled."""
    _check_image_size(image_path, image, size)
    if len(annotations) != 1 or annotations[0].file_name is None:
        raise InputError(f"{image_path}: has {len(annotations)} panoptic annotations in {directory.name}.json; expected one")
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory; unpack {directory.name}.zip, which has the segments")
    png = directory / Path(annotations[0].file_name).name
    colors = read_label(png).values
    if colors.shape != (*size, 3):
        raise InputError(f"{png}: has the shape {colors.shape}; expected an RGB PNG of the image's size, {(*size, 3)}")
    ids, inverse = np.unique(colors.astype(np.int64) @ [1, 256, 65536], return_inverse=True)
    segments = {0: fill} | {
        segment.id: values.get(segment.category_id, IGNORE_INDEX) for segment in annotations[0].segments_info or []
    }
    problems = [f"{png}: the segment {number} is not in the JSON file" for number in ids.tolist() if number not in segments]
    problems += [
        f"{png}: the segment {segment.id} has the undeclared category_id {segment.category_id}"
        for segment in annotations[0].segments_info or []
        if segment.category_id not in values
    ]
    table = np.array([segments.get(number, IGNORE_INDEX) for number in ids.tolist()], np.uint8)
    return table[inverse].reshape(size), problems


def _check_image_size(image_path: Path, image: CocoImage, size: Size) -> None:
    try:
        check_size((image.height, image.width), size)
    except InputError as error:
        raise InputError(f"{image_path}: {error}") from None
