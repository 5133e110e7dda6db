"""`curves.png`: loss and scores of the training and validation split over the epochs."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from core.runtime.atomic import write_atomically
from training.tracking.history import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CROSS_ENTROPY = "cross-entropy (nats)"
FIGURE_SIZE = (17, 9.5)  # inches
TITLE_WIDTH = 100  # characters; even wide ones fit into the width of the figure
PANELS = (
    ("loss", "pixel_accuracy", "miou_present", "", ""),
    ("miou", "macro_dice", "macro_sensitivity", "macro_specificity", "macro_accuracy"),
    ("micro_iou", "micro_dice", "micro_sensitivity", "micro_specificity", "micro_accuracy"),
)


def display_name(name: str) -> str:
    """Return the name of a score for tables and axis titles."""
    known = {"miou": "mIoU", "miou_present": "mIoU (labelled classes)"}
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
    grid = figure.subplots(3, 5)
    for axes, name in zip(grid.flat, (name for row in PANELS for name in row), strict=True):
        if not name:
            axes.set_axis_off()
            continue
        yield axes, "train_loss" if name == "loss" else f"train_running_{name}", f"val_{name}"
        axes.set_title(display_name(name))
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    grid[0, 0].set_ylabel(loss_label)
    grid[0, 4].legend(*grid[0, 1].get_legend_handles_labels(), loc="center", fontsize=12)  # more lines than the loss may have


def draw_curves(history: list[Row], title: str, path: Path, train_loss: str = CROSS_ENTROPY) -> None:
    """Plot a history and write the PNG file atomically.

    Args:
        train_loss: Name of the training loss; the validation loss is always the cross-entropy.

    Training scores are running scores of augmented crops: they lag behind and are not comparable to those of whole images.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure, epochs = Figure(figsize=FIGURE_SIZE, layout="constrained"), [row["epoch"] for row in history]
    label = train_loss if train_loss == CROSS_ENTROPY else f"training: {train_loss}\nvalidation: {CROSS_ENTROPY}"
    for axes, train_column, val_column in score_panels(figure, label):
        lines = {train_column: "training crops", val_column: "validation"}
        of_datasets = dict.fromkeys(name for row in history for name in row if name.startswith(f"{val_column}/"))
        lines |= {name: escape_mathtext(f"validation, {name.partition('/')[2]}") for name in of_datasets}
        for name, text in lines.items():
            axes.plot(epochs, column(history, name), label=text, marker="." if len(epochs) < 30 else None)
    figure.suptitle(escape_mathtext(textwrap.fill(title, TITLE_WIDTH)))
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(png, format="png", dpi=80)
    write_atomically(path, [png.getvalue()])
