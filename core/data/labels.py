"""The classes of a dataset: their names, the ids in its label files, and the colors of its masks."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.errors import InputError, first_validation_error

IGNORE_INDEX = 255  # train id of void pixels, which count neither in the loss nor in a score

Color = tuple[int, int, int]


class LabelSpace(BaseModel):
    """Classes in the order of their train ids (0, 1, ...), which are also the channels of the logits.

    `ids[k]` is the value of class k in a label file, and `void_ids` are the values of ignored pixels. Any other value
    in a label file is an error, so that a wrong dataset is noticed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    names: tuple[str, ...] = Field(min_length=1, max_length=255)
    ids: tuple[int, ...]
    colors: tuple[Color, ...]
    void_ids: tuple[int, ...] = (IGNORE_INDEX,)

    @model_validator(mode="after")
    def _consistent(self) -> LabelSpace:
        count = len(self.names)
        if len(self.ids) != count or len(self.colors) != count:
            raise ValueError(
                f"{count} names, {len(self.ids)} ids and {len(self.colors)} colors; expected the same number of each"
            )
        for void in set(self.void_ids) & set(self.ids):
            name = self.names[self.ids.index(void)]
            raise ValueError(f"id {void} is both void and the class {name!r}; set `id` of each class to its label value")
        for field, values in (("name", self.names), ("color", self.colors), ("id", self.ids + self.void_ids)):
            seen: set[Any] = set()
            for value in values:
                if value in seen:
                    raise ValueError(f"{field} {value} is used twice; every {field} must be unique")
                seen.add(value)
        if any(not 0 <= channel <= 255 for color in self.colors for channel in color):
            raise ValueError("a color must be three numbers from 0 to 255")
        if any(not 0 <= value <= 65535 for value in self.ids + self.void_ids):
            raise ValueError("an id must be a number from 0 to 65535")
        return self

    def __len__(self) -> int:
        return len(self.names)

    def describe_difference(self, other: LabelSpace) -> str | None:
        """Return a description of the first difference between the class names of two label spaces; None if there is none."""
        for index, (name, other_name) in enumerate(zip(self.names, other.names, strict=False)):
            if name != other_name:
                return f"class {index} is {name!r} in one and {other_name!r} in the other"
        return None if len(self) == len(other) else f"{len(self)} classes in one and {len(other)} in the other"

    @cached_property
    def _train_ids(self) -> npt.NDArray[np.int16]:
        """Lookup table (65536,) from label value to train id; -1 for unknown values."""
        table = np.full(65536, -1, np.int16)
        table[list(self.void_ids)] = IGNORE_INDEX
        table[list(self.ids)] = np.arange(len(self))
        return table

    @cached_property
    def palette(self) -> npt.NDArray[np.uint8]:
        """Colors by train id as (256, 3) RGB; black for train ids without a class, such as IGNORE_INDEX."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self)] = self.colors
        return table

    def encode(self, values: npt.NDArray[np.unsignedinteger[Any]]) -> npt.NDArray[np.uint8]:
        """Map label file values (any shape, unsigned) to train ids (same shape, uint8, IGNORE_INDEX for void).

        Raises:
            InputError: Some values are neither a class nor void; the message lists them.
        """
        table = self._train_ids if values.dtype.itemsize > 1 else self._train_ids[:256]
        mapped: npt.NDArray[np.int16] = table[values]
        if mapped.size and mapped.min() < 0:
            unknown = np.unique(values[mapped < 0])
            shown = ", ".join(map(str, unknown[:8])) + (", ..." if unknown.size > 8 else "")
            raise InputError(
                f"contains label ids {shown}, which are not in {self.name}; {self._expected_values_text()};"
                " add the classes or map these ids to a void id"
            )
        return mapped.astype(np.uint8)

    def decode(self, train_ids: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
        """Map train ids (any shape, uint8) to label file values (same shape, uint16); void becomes the first void id."""
        table = np.full(256, self.void_ids[0] if self.void_ids else IGNORE_INDEX, np.uint16)
        table[: len(self)] = self.ids
        values: npt.NDArray[np.uint16] = table[train_ids]
        return values

    def _expected_values_text(self) -> str:
        """Return a phrase that lists the valid values of a label file, such as `expected 0..33, 255`."""
        ranges: list[list[int]] = []  # [first, last] of each run of consecutive values
        for value in sorted((*self.ids, *self.void_ids)):
            if ranges and value == ranges[-1][1] + 1:
                ranges[-1][1] = value
            else:
                ranges.append([value, value])
        return "expected " + ", ".join(f"{first}" if first == last else f"{first}..{last}" for first, last in ranges)


def read_classes(path: Path) -> LabelSpace:
    """Read `classes.json`: {"name"?, "void"?, "classes": [{"name", "color": [r, g, b], "id"?}, ...]}.

    `name` defaults to the name of the directory, `void` to 255 (it may also be a list of ids), and `id` to the index of
    the class in the list.

    Raises:
        InputError: The file is missing or invalid; the message describes the first problem.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))  # some editors write a byte order mark
        classes = document["classes"]
        void = document.get("void", IGNORE_INDEX)
        space = LabelSpace(
            name=document.get("name", path.parent.name),
            names=tuple(c["name"] for c in classes),
            ids=tuple(c.get("id", index) for index, c in enumerate(classes)),
            colors=tuple(tuple(c["color"]) for c in classes),
            void_ids=tuple(void) if isinstance(void, list) else (void,),
        )
        if len(space) == 1:
            raise ValueError(
                "a single class: all pixels that are not void belong to it; add a class for the rest, such as `background`"
            )
        return space
    except FileNotFoundError:
        reason = "no such file"
    except ValidationError as error:
        reason = first_validation_error(error)
    except KeyError as error:
        reason = f"the key {error} is missing"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = str(error)
    raise InputError(
        f"{path}: not a usable classes.json ({reason}); expected"
        ' {"void": 255, "classes": [{"name": "road", "color": [128, 64, 128]}, ...]},'
        " 2 to 255 classes with unique names and colors"
    )


# Names, ids and colors of the Cityscapes dataset in the order of their train ids (Cordts et al. 2016, table of class
# definitions).
_CITYSCAPES: tuple[tuple[str, int, Color], ...] = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)

CITYSCAPES = LabelSpace(
    name="Cityscapes",
    names=tuple(name for name, _, _ in _CITYSCAPES),
    ids=tuple(label_id for _, label_id, _ in _CITYSCAPES),
    colors=tuple(color for _, _, color in _CITYSCAPES),
    # 255 is the value of -1 (license plate) in an 8-bit file.
    void_ids=(0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30, 255),
)
