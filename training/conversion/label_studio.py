"""Label Studio, "Brush labels to PNG": a PNG mask for each region, and a JSON export that names the image of each task.

Label Studio exports no images with the masks, so they must be put beside these. The names of the masks are
`task-TASK-annotation-ANNOTATION-by-USER-TAG-LABEL-NUMBER.png`. Source: github.com/HumanSignal/label-studio-sdk,
`converter/brush.py`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, model_validator

from core.errors import InputError, first_validation_error
from core.images.decode import read_label
from core.runtime.files import list_files
from training.conversion.drawing import Mask, blank_labels, draw_smaller_over_larger
from training.conversion.export import ConversionOptions, Drawing, Export, ExportImage, Size, add_background, make_classes
from training.conversion.source_files import ImageFinder, read_file, split_of_directory

MASK_NAME = re.compile(r"task-(?P<task>\d+)-annotation-(?P<annotation>\d+)-by-(?P<user>[^-]*)-(?P<region>.+)-\d+")


class RegionValue(BaseModel):
    """The labels of a region."""

    brushlabels: list[str] = []


class Region(BaseModel):
    """An entry of an annotation's `result`; `from_name` is the tag of the labeling configuration."""

    from_name: str = ""
    value: RegionValue = RegionValue()


class TaskAnnotation(BaseModel):
    """The work of one annotator on a task."""

    id: int
    result: list[Region] = []


class Task(BaseModel):
    """A task of the JSON or JSON-MIN export, which has the values of `data` at the top level, and no regions."""

    id: int
    data: dict[str, Any] = Field(default_factory=dict)
    annotations: list[TaskAnnotation] = []

    @model_validator(mode="before")
    @classmethod
    def _lift_data(cls, task: Any) -> Any:
        return {"data": task, **task} if isinstance(task, dict) else task


@dataclass(frozen=True)
class RegionMask:
    """A mask file and the label of its region."""

    path: Path
    label: str


def read_export(source: Path, options: ConversionOptions) -> Export:
    """Read all masks and JSON files below `source`. Raises InputError."""
    files = list_files(source)
    tasks = _read_tasks(source, [path for path in files if path.suffix.lower() == ".json"])
    problems: list[str] = []
    masks = _index_masks(files, tasks, problems)
    if not masks:
        raise InputError(f"{source}: has no masks; expected task-*-annotation-*-by-*-TAG-LABEL-0.png (Brush labels to PNG)")
    found = {mask.label for task, regions in masks.items() if task in tasks for mask in regions}
    names, fill = add_background(options.classes or sorted(found), options.background)
    export = Export(make_classes(source, names), [], problems)
    finder = ImageFinder(source)
    for task in sorted(masks.keys() | tasks.keys()):
        try:
            _check_masks(source, task, tasks.get(task), masks.get(task, []), options.background is not None)
            image = _find_image(task, tasks, finder)
        except InputError as error:
            problems.append(str(error))
            continue
        draw = partial(_draw_regions, masks.get(task, []), names, fill)
        export.images.append(ExportImage(image, split_of_directory(image, source), draw))
    return export


def _read_tasks(source: Path, paths: list[Path]) -> dict[int, Task]:
    """Return the tasks of all JSON exports. Raises InputError."""
    if not paths:
        raise InputError(f"{source}: has no JSON file; export the project also as JSON, which names the image of each task")
    tasks: dict[int, Task] = {}
    for path in paths:
        try:
            tasks |= {task.id: task for task in TypeAdapter(list[Task]).validate_json(read_file(path))}
        except ValidationError as error:
            raise InputError(f"{path}: not a JSON export of Label Studio ({first_validation_error(error)})") from None
    return tasks


def _index_masks(files: list[Path], tasks: dict[int, Task], problems: list[str]) -> dict[int, list[RegionMask]]:
    """Return the masks of each task's latest annotation."""
    by_annotation: dict[int, dict[int, list[RegionMask]]] = defaultdict(dict)
    for path in files:
        match = MASK_NAME.fullmatch(path.stem) if path.suffix.lower() == ".png" else None
        if not match:
            continue
        task, annotation = int(match["task"]), int(match["annotation"])
        label = _find_label(match["region"], annotation, tasks.get(task))
        if label is None:
            problems.append(f"{path}: the region has several labels, or one that is not in the JSON file")
            continue
        by_annotation[task].setdefault(annotation, []).append(RegionMask(path, label))
    masks = {}
    for task, candidates in by_annotation.items():
        latest = max(candidates)
        masks[task] = candidates.pop(latest)
        problems += [
            f"{regions[0].path}: task {task} has {len(candidates) + 1} annotations; only the latest, {latest}, is used"
            for regions in candidates.values()
        ]
    return masks


def _find_label(region: str, annotation: int, task: Task | None) -> str | None:
    """Return the label in `TAG-LABEL`, either of which may contain hyphens, so that the JSON file decides.

    A JSON-MIN file has no regions; then the tag is assumed to have no hyphen.
    """
    regions = [r for a in (task.annotations if task else []) if a.id == annotation for r in a.result if r.value.brushlabels]
    if not regions:
        return region.partition("-")[2] or None
    for candidate in regions:
        name = "-".join([candidate.from_name, *candidate.value.brushlabels])
        if re.sub(r"[/\\]", "-", name) == region:
            return candidate.value.brushlabels[0] if len(candidate.value.brushlabels) == 1 else None
    return None


def _check_masks(source: Path, number: int, task: Task | None, masks: list[RegionMask], has_background: bool) -> None:
    """Raise InputError if a task was not annotated, or if some of its masks are missing."""
    if not masks and not (has_background and task and task.annotations):
        raise InputError(f"{source}: task {number} has no mask")
    latest = max(task.annotations, key=lambda annotation: annotation.id, default=None) if task else None
    regions = [region for region in latest.result if len(region.value.brushlabels) == 1] if latest else []
    if len(regions) > len(masks):
        raise InputError(f"{source}: task {number} has {len(regions)} regions, but {len(masks)} masks")


def _find_image(task: int, tasks: dict[int, Task], finder: ImageFinder) -> Path:
    """Return the image that the data of a task names: `image`, or the first value that is the name of a file."""
    if task not in tasks:
        raise InputError(f"{finder.source}: task {task} has masks, but is not in the JSON file")
    data = tasks[task].data
    values = [value for key, value in sorted(data.items(), key=lambda item: item[0] != "image") if isinstance(value, str)]
    errors = []
    for value in values:
        try:
            return finder.find(value)
        except InputError as error:
            errors.append(str(error))
    raise InputError(errors[0] if errors else f"{finder.source}: task {task} names no image in the JSON file")


def _draw_regions(regions: list[RegionMask], names: tuple[str, ...], fill: int, size: Size) -> Drawing:
    """Draw the regions of a task. Label Studio exports no order; smaller ones are on top."""
    labels, problems = blank_labels(size, fill), []

    def masks() -> Iterator[tuple[int, Mask]]:
        for region in regions:
            if region.label not in names:
                problems.append(f"{region.path}: the label {region.label!r} is not in --classes")
                continue
            try:
                yield names.index(region.label), _read_mask(region.path, size)
            except InputError as error:
                problems.append(str(error))

    draw_smaller_over_larger(labels, masks())
    return labels, problems


def _read_mask(path: Path, size: Size) -> Mask:
    """Read a grayscale mask; every value but 0 is part of the region, as in Label Studio's COCO export. Raises InputError."""
    values = read_label(path).values
    if values.shape != size:
        raise InputError(f"{path}: has the shape {values.shape}; expected a grayscale mask of the image's size, {size}")
    if not values.any():
        raise InputError(f"{path}: no pixel is marked")
    return values > 0
