"""Grids of pictures: photograph, label and the mask of each model, row by row, with the colours' names below."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from core.data.labels import VOID, LabelSpace
from core.images.decode import RGB
from core.images.encode import Labels
from core.images.resize import resize_label, resize_photo
from training.comparison.document import Example
from training.comparison.figures import written

CAPTIONS = {
    "examples": "Typical, best and worst pictures, with each model's IoU on them",
    "disagreement": "Where the models disagree most",
}
LONGEST = 640  # pixels of a cell's longer side
CELL = 3.0  # inches of a cell's width


def grid(
    rows: Sequence[tuple[Example, RGB, Labels, Sequence[Labels]]], names: Sequence[str], space: LabelSpace, apart: bool = False
) -> Figure:
    """A row for each example: photograph, label, each model's mask (void of the label left as it was predicted).

    With `apart` a last column marks the pixels on which not all models agree.
    """
    titles = ["photograph", "label", *map(written, names), *["not all agree"] * apart]
    ratio = rows[0][1].shape[0] / rows[0][1].shape[1]
    figure = Figure(figsize=(CELL * len(titles), (CELL * ratio + 0.25) * len(rows) + 0.9), layout="constrained")
    panels = figure.subplots(len(rows), len(titles), squeeze=False)
    present: set[int] = set()
    for line, (example, rgb, labels, predictions) in zip(panels, rows, strict=True):
        small = _small(rgb.shape[0], rgb.shape[1])
        maps = [resize_label(each, small) for each in (labels, *predictions)]
        cells: list[npt.NDArray[np.uint8]] = [resize_photo(rgb, small), *(space.palette[each] for each in maps)]
        if apart:
            cells.append(_marked(cells[0], np.any([each != maps[1] for each in maps[2:]], axis=0) & (maps[0] != VOID)))
        present |= {int(k) for each in maps for k in np.unique(each)} - {VOID}
        below = [example.rule, "", *(_percent(example.iou[name]) for name in names)]
        below += [f"{100 * example.disagreement:.0f} % of the pixels"] * apart
        for axes, cell, text in zip(line, cells, below, strict=True):
            axes.imshow(cell, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_xlabel(text, fontsize=9)
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title, fontsize=11)
    colours = [
        Patch(color="#{:02x}{:02x}{:02x}".format(*space.colours[k]), label=written(space.names[k])) for k in sorted(present)
    ]
    figure.legend(handles=[*colours, Patch(color="black", label="void")], loc="outside lower center", frameon=False,
                  ncols=min(len(colours) + 1, 2 * len(titles)), fontsize=9)  # fmt: skip
    return figure


def _small(height: int, width: int) -> tuple[int, int]:
    scale = min(1.0, LONGEST / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _marked(rgb: RGB, where: npt.NDArray[np.bool_]) -> RGB:
    """The photograph in pale grey, and red where told."""
    grey = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    pale = (128 + grey // 2).astype(np.uint8)
    pale[where] = (200, 30, 30)
    return pale


def _percent(iou: float | None) -> str:
    return "" if iou is None else f"IoU {100 * iou:.1f} %"
