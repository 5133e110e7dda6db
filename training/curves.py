"""`curves.png`: the loss and every score over the epochs, training and validation."""

from __future__ import annotations

import io
from pathlib import Path

from core.files import write_atomically
from training.run_folder import Row

CROSS_ENTROPY = "cross-entropy (nats)"
PANELS = (
    ("loss", "pixel_accuracy", "macro_iou_labelled", "", ""),
    ("macro_iou", "macro_dice", "macro_sensitivity", "macro_specificity", "macro_accuracy"),
    ("micro_iou", "micro_dice", "micro_sensitivity", "micro_specificity", "micro_accuracy"),
)


def spelled(name: str) -> str:
    """A score's name for people."""
    known = {"macro_iou_labelled": "macro IoU of labelled classes"}
    return known.get(name, name.replace("_", " ").replace("iou", "IoU").replace("dice", "Dice"))


def draw_curves(history: list[Row], title: str, path: Path, objective: str = CROSS_ENTROPY) -> None:
    """Draw a panel for the loss and for each score and write the picture atomically.

    `objective` is what training minimises; on validation pictures it is always cross-entropy. Training scores are
    running scores of the augmented crops, so they lag and are not those of whole pictures.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(17, 9.5), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    epochs = [row["epoch"] for row in history]
    panels = figure.subplots(3, 5)
    for axes, name in zip(panels.flat, (name for line in PANELS for name in line), strict=True):
        if not name:
            axes.set_axis_off()
            continue
        training = "train_loss" if name == "loss" else f"train_running_{name}"
        for key, label in ((training, "training crops"), (f"val_{name}", "validation")):
            axes.plot(epochs, [row.get(key) for row in history], label=label, marker="." if len(epochs) < 30 else None)
        axes.set_title(spelled(name))
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    both = objective == CROSS_ENTROPY
    panels[0, 0].set_ylabel(objective if both else f"training: {objective}\nvalidation: {CROSS_ENTROPY}")
    panels[0, 4].legend(*panels[0, 0].get_legend_handles_labels(), loc="center")
    figure.suptitle(title)
    picture = io.BytesIO()
    canvas.print_figure(picture, format="png", dpi=80)
    write_atomically(path, [picture.getvalue()])
