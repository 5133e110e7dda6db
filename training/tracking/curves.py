"""`curves.png`: loss and scores of the training and validation split over the epochs."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.runtime.atomic import write_atomically
from training.tracking.history import Row
from training.tracking.run_dir import SELECTION_METRIC

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CROSS_ENTROPY = "cross-entropy (nats)"
FIGURE_SIZE = (11, 7)  # inches
TITLE_WIDTH = 100  # characters; even wide ones fit into the width of the figure
MAX_MARKED_EPOCHS = 30  # with more epochs, only the best one is marked
PANELS = (
    ("loss", "loss", SELECTION_METRIC, SELECTION_METRIC),
    ("pixel_accuracy", "macro_dice", "macro_sensitivity", "macro_specificity"),
)


def display_name(name: str) -> str:
    """Return the name of a score for tables and axis titles."""
    known = {"miou": "mIoU", "miou_present": "mIoU (labeled classes)"}
    return known.get(name, name.replace("_", " ").replace("iou", "IoU").replace("dice", "Dice"))


def escape_mathtext(text: str) -> str:
    """Escape a user's text for matplotlib: `$` starts no formula, and a leading `_` does not hide it in legends."""
    return "\u200b" * text.startswith("_") + text.replace("$", r"\$")


def column(history: list[Row], name: str) -> list[float]:
    """Return a column of a history, NaN for missing values."""
    values = [row.get(name) for row in history]
    return [math.nan if value is None else value for value in values]


def score_panels(figure: Figure, loss_label: str) -> Iterator[tuple[Axes, str, str]]:
    """Yield one panel for the loss and for each score, with the history columns of training and validation to plot in it.

    The labels and the legend are added after the caller has plotted into a panel, so exhaust the iterator.
    """
    panels = figure.subplot_mosaic([list(row) for row in PANELS], height_ratios=(2, 1))
    for name, axes in panels.items():
        yield axes, "train_loss" if name == "loss" else f"train_running_{name}", f"val_{name}"
        axes.set_title(display_name(name))
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.locator_params(axis="x", integer=True)
    panels["loss"].set_ylabel(loss_label)
    panels[SELECTION_METRIC].legend(frameon=False)


def draw_curves(history: list[Row], title: str, path: Path, train_loss: str = CROSS_ENTROPY) -> None:
    """Plot a history and write the PNG file atomically.

    Args:
        train_loss: Name of the training loss; the validation loss is always the cross-entropy.

    Training scores are running scores of augmented crops: they lag behind and are not comparable to those of whole images.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure, epochs = Figure(figsize=FIGURE_SIZE), [row["epoch"] for row in history]
    label = train_loss if train_loss == CROSS_ENTROPY else f"training: {train_loss}\nvalidation: {CROSS_ENTROPY}"
    best = int(np.argmax(np.nan_to_num(column(history, f"val_{SELECTION_METRIC}"))))
    for axes, train_column, val_column in score_panels(figure, label):
        lines = {train_column: "training crops", val_column: "validation"}
        of_datasets = dict.fromkeys(name for row in history for name in row if name.startswith(f"{val_column}/"))
        lines |= {name: escape_mathtext(f"validation, {name.partition('/')[2]}") for name in of_datasets}
        for name, text in lines.items():
            axes.plot(epochs, column(history, name), label=text, marker="." if len(epochs) <= MAX_MARKED_EPOCHS else None)
        value = column(history, val_column)[best]
        axes.plot(epochs[best], value, "o", mfc="none", ms=9, color="black", label=f"best epoch: {epochs[best]:.0f}")
    lines_of_title = textwrap.wrap(title, TITLE_WIDTH)
    figure.suptitle(escape_mathtext("\n".join(lines_of_title)))
    # Matplotlib's constrained layout, which would find these margins, takes half of the time.
    margins = {"left": 0.085, "right": 0.985, "bottom": 0.07, "top": 0.94 - 0.032 * len(lines_of_title)}
    figure.subplots_adjust(**margins, wspace=0.35, hspace=0.28)
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(png, format="png", dpi=100)
    write_atomically(path, [png.getvalue()])
