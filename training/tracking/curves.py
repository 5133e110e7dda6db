"""`curves.png`: the loss and every score over the epochs, training and validation."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from core.runtime.files import write_atomically
from training.tracking.history import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CROSS_ENTROPY = "cross-entropy (nats)"
FIGURE = (17, 9.5)  # inches
PANELS = (
    ("loss", "pixel_accuracy", "macro_iou_labelled", "", ""),
    ("macro_iou", "macro_dice", "macro_sensitivity", "macro_specificity", "macro_accuracy"),
    ("micro_iou", "micro_dice", "micro_sensitivity", "micro_specificity", "micro_accuracy"),
)


def spelled(name: str) -> str:
    """A score's name for people."""
    known = {"macro_iou_labelled": "macro IoU of labelled classes"}
    return known.get(name, name.replace("_", " ").replace("iou", "IoU").replace("dice", "Dice"))


def column(history: list[Row], name: str) -> list[float]:
    """A column of a history, NaN where there is nothing."""
    values = [row.get(name) for row in history]
    return [math.nan if value is None else value for value in values]


def panels(figure: Figure, loss: str) -> Iterator[tuple[Axes, str, str]]:
    """A panel for the loss, which `loss` says more of, and for each score, to draw into, with the columns of a history that
    belong in it, training and validation; after the last one the legend of the first is drawn."""
    grid = figure.subplots(3, 5)
    for axes, name in zip(grid.flat, (name for line in PANELS for name in line), strict=True):
        if not name:
            axes.set_axis_off()
            continue
        yield axes, "train_loss" if name == "loss" else f"train_running_{name}", f"val_{name}"
        axes.set_title(spelled(name))
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    grid[0, 0].set_ylabel(loss)
    grid[0, 4].legend(*grid[0, 0].get_legend_handles_labels(), loc="center", fontsize=12)


def draw_curves(history: list[Row], title: str, path: Path, objective: str = CROSS_ENTROPY) -> None:
    """Draw a panel for the loss and for each score and write the picture atomically.

    `objective` is what training minimises; on validation pictures it is always cross-entropy. Training scores are
    running scores of the augmented crops, so they lag and are not those of whole pictures.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure, epochs = Figure(figsize=FIGURE, layout="constrained"), [row["epoch"] for row in history]
    loss = objective if objective == CROSS_ENTROPY else f"training: {objective}\nvalidation: {CROSS_ENTROPY}"
    for axes, training, validation in panels(figure, loss):
        for key, label in ((training, "training crops"), (validation, "validation")):
            axes.plot(epochs, column(history, key), label=label, marker="." if len(epochs) < 30 else None)
    figure.suptitle(title)
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(picture, format="png", dpi=80)
    write_atomically(path, [picture.getvalue()])
