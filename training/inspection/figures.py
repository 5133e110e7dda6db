"""Figures of an inspected dataset: class fractions by split, and a contact sheet of labels over their images."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from core.data.datasets import read_sample
from core.data.labels import IGNORE_INDEX, LabelSpace
from core.errors import InputError
from core.images.encode import overlay
from core.images.resize import resize_image, resize_label
from training.inspection.scan import SplitInspection
from training.tracking.curves import escape_mathtext

COLUMNS = 4
CELL_WIDTH = 3.0  # inches
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "ooo")  # The bars of each split have one of these.
CELL_PIXELS = 480  # longest side of an image in the contact sheet


def class_fraction_bars(inspections: list[SplitInspection], space: LabelSpace) -> Figure:
    """Draw the fraction of the labeled pixels of each class, on a logarithmic axis, for each split."""
    figure = Figure(figsize=(7, 0.9 + max(0.3, 0.15 * len(inspections)) * len(space)), layout="constrained")
    axes = figure.subplots()
    rows, height, colors = np.arange(len(space)), 0.8 / max(len(inspections), 1), space.palette[: len(space)] / 255
    for number, inspection in enumerate(inspections):
        bars = axes.barh(rows + (number + 0.5) * height - 0.4, 100 * inspection.class_fractions, height * 0.9, color=colors,
                         edgecolor="black", linewidth=0.5, hatch=HATCHES[number % len(HATCHES)])  # fmt: skip
        axes.bar_label(bars, [f"{100 * f:.2g}" if f > 0 else "none" for f in inspection.class_fractions], padding=2, fontsize=8)
    axes.set_yticks(rows, [escape_mathtext(name) for name in space.names])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel("% of the labeled pixels")
    handles = [
        Patch(
            facecolor="white", edgecolor="black", hatch=HATCHES[number % len(HATCHES)], label=escape_mathtext(inspection.name)
        )
        for number, inspection in enumerate(inspections)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(3, len(handles)), frameon=False)
    return figure


def contact_sheet(inspection: SplitInspection, count: int = 12) -> Figure:
    """Draw evenly spaced images of a split under their half-transparent labels, with a legend of the classes."""
    dataset = inspection.dataset
    if dataset is None:
        raise InputError(f"{inspection.name}: the split can't be opened")
    cells, present = [], set[int]()
    for index in np.unique(np.linspace(0, len(dataset) - 1, count).astype(int)):
        try:
            rgb, labels = read_sample(dataset, int(index), allow_all_void=True)
        except InputError:
            continue
        scale = min(1.0, CELL_PIXELS / max(labels.shape))
        size = max(1, round(labels.shape[0] * scale)), max(1, round(labels.shape[1] * scale))
        small = resize_label(labels, size)
        present |= {int(k) for k in np.unique(small)} - {IGNORE_INDEX}
        cells.append((overlay(resize_image(rgb, size), small, dataset.labels), dataset.pairs[index][0].name))
    rows = max(1, -(-len(cells) // COLUMNS))
    ratio = max((cell.shape[0] / cell.shape[1] for cell, _ in cells), default=1.0)
    figure = Figure(figsize=(CELL_WIDTH * COLUMNS, rows * (CELL_WIDTH * ratio + 0.3) + 0.8), layout="constrained")
    for axes in figure.subplots(rows, COLUMNS, squeeze=False).flat:
        axes.axis("off")
    for axes, (cell, name) in zip(figure.axes, cells, strict=False):
        axes.imshow(cell)
        axes.set_title(escape_mathtext(name if len(name) <= 40 else f"...{name[-37:]}"), fontsize=8)
    names, colors = dataset.labels.names, dataset.labels.palette / 255
    patches = [Patch(color=colors[k], label=escape_mathtext(names[k])) for k in sorted(present)]
    figure.legend(handles=patches, loc="outside lower center", frameon=False, ncols=2 * COLUMNS, fontsize=9)
    return figure
