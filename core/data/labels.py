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
from core.images.decode import LabelImage

IGNORE_INDEX = 255  # train id of void pixels, which count neither in the loss nor in a score

Color = tuple[int, int, int]
BLACK: Color = (0, 0, 0)


class LabelSpace(BaseModel):
    """Classes in the order of their train ids (0, 1, ...), which are also the channels of the logits.

    `ids[k]` is the value of class k in a label file, and `void_ids` are the values of ignored pixels. In a color-coded
    label file, `colors[k]` is class k, and void pixels have one of `void_colors`, or are black if no class is black. Any
    other value is an error, so that a wrong dataset is noticed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    names: tuple[str, ...] = Field(min_length=1, max_length=255)
    ids: tuple[int, ...]
    colors: tuple[Color, ...]
    void_ids: tuple[int, ...] = (IGNORE_INDEX,)
    void_colors: tuple[Color, ...] = Field((), exclude=True)  # not in checkpoints: it only matters for label files

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
        colors, ids = self.colors + self.void_colors, self.ids + self.void_ids
        for field, values in (("name", self.names), ("color", colors), ("id", ids)):
            seen: set[Any] = set()
            for value in values:
                if value in seen:
                    raise ValueError(f"{field} {value} is used twice; every {field} must be unique")
                seen.add(value)
        if any(not 0 <= channel <= 255 for color in colors for channel in color):
            raise ValueError("a color must be three numbers from 0 to 255")
        if any(not 0 <= value <= 65535 for value in ids):
            raise ValueError("an id must be a number from 0 to 65535")
        return self

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        """Compare what checkpoints store: pydantic would also compare the cached arrays."""
        return isinstance(other, LabelSpace) and self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(self._fields())

    def _fields(self) -> tuple[object, ...]:
        return self.name, self.names, self.ids, self.colors, self.void_ids

    def describe_difference(self, other: LabelSpace) -> str | None:
        """Return a description of the first difference between the class names of two label spaces; None if there is none."""
        for index, (name, other_name) in enumerate(zip(self.names, other.names, strict=False)):
            if name != other_name:
                return f"class {index} is {name!r} in one and {other_name!r} in the other"
        return None if len(self) == len(other) else f"{len(self)} classes in one and {len(other)} in the other"

    def class_map(self, other: LabelSpace) -> tuple[int, ...]:
        """Return the train id in `other` of each class, by its name without regard to case; IGNORE_INDEX if it has none."""
        train_ids = {name.casefold(): k for k, name in enumerate(other.names)}
        train_ids |= {name: k for k, name in enumerate(other.names)}  # if two names differ in case only, the same one
        return tuple(train_ids.get(name, train_ids.get(name.casefold(), IGNORE_INDEX)) for name in self.names)

    def as_train_ids(self) -> LabelSpace:
        """Return the same classes with their train ids as ids, as in Cityscapes' `*_gtFine_labelTrainIds.png`."""
        # Not model_copy(), which would also copy the cached lookup table.
        ids, void_ids = tuple(range(len(self))), (IGNORE_INDEX,)
        return LabelSpace(
            name=self.name, names=self.names, ids=ids, colors=self.colors, void_ids=void_ids, void_colors=self.void_colors
        )

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

    @property
    def _colors_of_void(self) -> tuple[Color, ...]:
        """The colors of void pixels: `void_colors`, by default black unless a class is black."""
        return self.void_colors or (() if BLACK in self.colors else (BLACK,))

    def encode_label(self, label: LabelImage) -> npt.NDArray[np.uint8]:
        """Map the pixels of a label file to train ids (H, W) uint8, IGNORE_INDEX for void.

        A label with a palette is read by its indices if these are ids, else by its colors.

        Raises:
            InputError: Some values or colors are neither a class nor void, or ids and palette contradict each other.
        """
        if label.values.ndim == 3:
            return self.encode_colors(label.values)
        if label.palette is not None:
            used = np.flatnonzero(np.bincount(label.values.ravel(), minlength=256))
            if self._must_use_colors(used, label.palette):
                return self.encode_colors(label.palette[label.values])
        return self.encode(label.values)

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

    def encode_colors(self, rgb: npt.NDArray[np.unsignedinteger[Any]]) -> npt.NDArray[np.uint8]:
        """Map label colors (..., 3) uint8 RGB to train ids (...) uint8, IGNORE_INDEX for void.

        Raises:
            InputError: Some colors are neither a class nor void; the message has the most frequent of them, the number of
                its pixels, and the class with the nearest color.
        """
        packed = _pack_colors(rgb)
        colors = self.colors + self._colors_of_void
        keys, train_ids = _pack_colors(np.array(colors, np.uint8)), np.full(len(colors), IGNORE_INDEX, np.uint8)
        train_ids[: len(self)] = np.arange(len(self))
        order = np.argsort(keys)
        keys, train_ids = keys[order], train_ids[order]
        found = np.searchsorted(keys, packed).clip(max=len(keys) - 1)
        unknown = packed[keys[found] != packed]
        if unknown.size:
            different, counts = np.unique(unknown, return_counts=True)
            color = [int(different[counts.argmax()]) >> shift & 255 for shift in (16, 8, 0)]
            nearest = int(((np.array(self.colors) - color) ** 2).sum(1).argmin())
            others = f" (and {different.size - 1} other colors)" if different.size > 1 else ""
            raise InputError(
                f"{counts.max():,} pixels have the color {tuple(color)}{others}, which is not in {self.name}; the nearest is"
                f" {self.names[nearest]!r} with {self.colors[nearest]}; save labels without anti-aliasing and never as JPEG,"
                ' add the class, or add the color to "void_colors"'
            )
        mapped: npt.NDArray[np.uint8] = train_ids[found]
        return mapped

    def _must_use_colors(self, used: npt.NDArray[np.intp], palette: npt.NDArray[np.uint8]) -> bool:
        """Return whether a palette label must be read by its colors, as its indices `used` (N,) are not ids.

        Raises:
            InputError: The indices are ids, but the palette gives one of them the color of another class.
        """
        colors = {int(index): tuple(palette[index].tolist()) for index in used if index < len(palette)}
        if any(self._train_ids[index] < 0 for index in used):
            return all(color in self.colors + self._colors_of_void for color in colors.values())
        if all(color == (index,) * 3 for index, color in colors.items()):  # a gray ramp has no meaning
            return False
        for index, color in colors.items():
            if index in self.ids and color in self.colors and self.ids.index(index) != self.colors.index(color):
                name, other = self.names[self.ids.index(index)], self.names[self.colors.index(color)]
                expected = self.colors[self.ids.index(index)]
                raise InputError(
                    f"the palette index {index} is the class {name!r} with the color {expected} in {self.name}, but its color"
                    f" in the file, {color}, is that of {other!r}; correct the ids or the colors in classes.json"
                )
        return False

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


def _pack_colors(rgb: npt.NDArray[np.unsignedinteger[Any]]) -> npt.NDArray[np.int32]:
    """Return colors (..., 3) uint8 as numbers (...) int32: red * 65536 + green * 256 + blue."""
    red, green, blue = (rgb[..., channel].astype(np.int32) for channel in range(3))
    packed: npt.NDArray[np.int32] = red << 16 | green << 8 | blue
    return packed


def _parse_color(color: Any) -> Color:
    """Return the color of a class, which is written as [128, 64, 128] or "#804080". Raises ValueError."""
    try:
        red, green, blue = bytes.fromhex(color.removeprefix("#")) if isinstance(color, str) else color
    except (TypeError, ValueError):
        raise ValueError(f'the color {json.dumps(color)} is not usable; expected [128, 64, 128] or "#804080"') from None
    return red, green, blue


def read_classes(path: Path) -> LabelSpace:
    """Read `classes.json`: {"name"?, "void"?, "void_colors"?, "classes": [{"name", "color", "id"?}, ...]}.

    `name` defaults to the name of the directory, `void` to 255 (it may also be a list of ids), `void_colors` to black
    unless a class is black, and `id` to the index of the class in the list. A color is [r, g, b] or "#rrggbb".

    Raises:
        InputError: The file is missing or invalid; the message describes the first problem.
    """
    try:
        document = json.loads(path.read_bytes())  # UTF-8, UTF-16 or UTF-32
        classes = document["classes"]
        void = document.get("void", IGNORE_INDEX)
        space = LabelSpace(
            name=document.get("name", path.parent.name),
            names=tuple(c["name"] for c in classes),
            ids=tuple(c.get("id", index) for index, c in enumerate(classes)),
            colors=tuple(_parse_color(c["color"]) for c in classes),
            void_ids=tuple(void) if isinstance(void, list) else (void,),
            void_colors=tuple(map(_parse_color, document.get("void_colors", ()))),
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
    void_colors=(
        *((0, 0, 0), (111, 74, 0), (81, 0, 81), (250, 170, 160), (230, 150, 140), (180, 165, 180), (150, 100, 100)),
        *((150, 120, 90), (0, 0, 90), (0, 0, 110)),
    ),
)
