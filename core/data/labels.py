"""LabelSpace: the classes of a data set, with the ids that its label files hold and the colours of its masks."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.errors import InputError, first_fault

VOID = 255  # the train id of a pixel that counts nowhere: not in the loss, not in a score

Colour = tuple[int, int, int]


class LabelSpace(BaseModel):
    """Classes in the order of their train ids (0, 1, ...), which are also the channels of the logits.

    `ids[k]` is the value that stands for class k in a label file, `void_ids` are the values that are known and
    count nowhere. Any other value in a label file is an error, so that a wrong data set is noticed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    names: tuple[str, ...] = Field(min_length=1, max_length=255)
    ids: tuple[int, ...]
    colours: tuple[Colour, ...]
    void_ids: tuple[int, ...] = (VOID,)

    @model_validator(mode="after")
    def _consistent(self) -> LabelSpace:
        count = len(self.names)
        if len(self.ids) != count or len(self.colours) != count:
            raise ValueError(f"{count} names, {len(self.ids)} ids and {len(self.colours)} colours: need as many of each")
        for void in set(self.void_ids) & set(self.ids):
            name = self.names[self.ids.index(void)]
            raise ValueError(f"id {void} is both void and the class {name!r}; give every class the `id` that its labels hold")
        for what, values in (("name", self.names), ("colour", self.colours), ("id", self.ids + self.void_ids)):
            seen: set[Any] = set()
            for value in values:
                if value in seen:
                    raise ValueError(f"{what} {value} stands twice; every {what} must be unique")
                seen.add(value)
        if any(not 0 <= channel <= 255 for colour in self.colours for channel in colour):
            raise ValueError("a colour is three numbers from 0 to 255")
        if any(not 0 <= value <= 65535 for value in self.ids + self.void_ids):
            raise ValueError("an id is a number from 0 to 65535")
        return self

    def __len__(self) -> int:
        return len(self.names)

    def difference(self, other: LabelSpace) -> str | None:
        """In words, the first thing by which the classes of another label space differ; None where they are the same."""
        for place, (ours, theirs) in enumerate(zip(self.names, other.names, strict=False)):
            if ours != theirs:
                return f"class {place} is {ours!r} in one and {theirs!r} in the other"
        return None if len(self) == len(other) else f"{len(self)} classes in one and {len(other)} in the other"

    @cached_property
    def _train_ids(self) -> npt.NDArray[np.int16]:
        """Label value -> train id; -1 where the value is unknown."""
        table = np.full(65536, -1, np.int16)
        table[list(self.void_ids)] = VOID
        table[list(self.ids)] = np.arange(len(self))
        return table

    @cached_property
    def palette(self) -> npt.NDArray[np.uint8]:
        """Colours as (256, 3) RGB; black where there is no class, 255 included."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self)] = self.colours
        return table

    def encode(self, values: npt.NDArray[np.unsignedinteger[Any]]) -> npt.NDArray[np.uint8]:
        """Label file values (any shape, unsigned) to train ids (uint8, same shape, 255 void).

        Raises InputError naming the values that are neither a class nor void.
        """
        table = self._train_ids if values.dtype.itemsize > 1 else self._train_ids[:256]
        mapped: npt.NDArray[np.int16] = table[values]
        if mapped.size and mapped.min() < 0:
            unknown = np.unique(values[mapped < 0])
            shown = ", ".join(map(str, unknown[:8])) + (", ..." if unknown.size > 8 else "")
            raise InputError(f"holds the label value(s) {shown}, which {self.name} does not know; {self.expected()}")
        return mapped.astype(np.uint8)

    def decode(self, train_ids: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
        """Train ids (uint8, 255 void) to label file values (uint16, same shape); void becomes the first void id."""
        table = np.full(256, self.void_ids[0] if self.void_ids else VOID, np.uint16)
        table[: len(self)] = self.ids
        values: npt.NDArray[np.uint16] = table[train_ids]
        return values

    def expected(self) -> str:
        """One phrase that lists the label values a file may hold."""
        values = sorted((*self.ids, *self.void_ids))
        spans: list[list[int]] = []
        for value in values:
            if spans and value == spans[-1][1] + 1:
                spans[-1][1] = value
            else:
                spans.append([value, value])
        text = ", ".join(f"{a}" if a == b else f"{a}..{b}" for a, b in spans)
        return f"expected {text}"


def read_classes(path: Path) -> LabelSpace:
    """Read `classes.json`: {"name", "void", "classes": [{"name", "color": [r, g, b], "id"?}, ...]}.

    `id` defaults to the class's place in the list, `void` to 255 and may be a list. Raises InputError.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))  # some editors write a byte order mark
        classes = document["classes"]
        void = document.get("void", VOID)
        space = LabelSpace(
            name=document.get("name", path.parent.name),
            names=tuple(c["name"] for c in classes),
            ids=tuple(c.get("id", place) for place, c in enumerate(classes)),
            colours=tuple(tuple(c["color"]) for c in classes),
            void_ids=tuple(void) if isinstance(void, list) else (void,),
        )
        if len(space) == 1:
            raise ValueError("one class alone: every pixel that counts would be of it; give what is none of it a class of its"
                             " own, such as `rest`")  # fmt: skip
        return space
    except FileNotFoundError:
        reason = "there is no such file"
    except ValidationError as error:
        reason = first_fault(error)
    except KeyError as error:
        reason = f"the key {error} is missing"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = str(error)
    raise InputError(
        f"{path}: not a usable classes.json ({reason}); expected"
        ' {"void": 255, "classes": [{"name": "road", "color": [128, 64, 128]}, ...]}, 2 to 255 classes of unique colours'
    )


# Names, ids, train ids and colours of the Cityscapes data set (Cordts et al. 2016, table of class definitions).
_CITYSCAPES: tuple[tuple[str, int, Colour], ...] = (
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
    colours=tuple(colour for _, _, colour in _CITYSCAPES),
    # 255 is how an 8-bit file holds -1, the licence plate
    void_ids=(0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30, 255),
)
