"""`curves.png`: the loss and every score over the epochs, training and validation."""

from __future__ import annotations

import io
from pathlib import Path

from core.files import write_atomically
from training.run_folder import Row

PANELS = (
    "loss", "macro_iou", "macro_iou_labelled", "pixel_accuracy",
    "macro_dice", "macro_sensitivity", "macro_specificity", "macro_accuracy",
    "micro_iou", "micro_dice", "micro_specificity", "micro_accuracy",
)  # fmt: skip


def draw_curves(history: list[Row], title: str, path: Path) -> None:
    """Draw a panel for the loss and for each score and write the picture atomically.

    Training scores are running scores of the augmented crops, so they lag and are not those of whole pictures.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 9.5), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    epochs = [row["epoch"] for row in history]
    for axes, name in zip(figure.subplots(3, 4).flat, PANELS, strict=True):
        training = "train_loss" if name == "loss" else f"train_running_{name}"
        for key, label in ((training, "training crops"), (f"val_{name}", "validation")):
            axes.plot(epochs, [row.get(key) for row in history], label=label, marker="." if len(epochs) < 30 else None)
        axes.set_title(name.replace("_", " "))
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.axes[0].legend()
    figure.axes[0].set_ylabel("cross-entropy (nats)")
    figure.suptitle(title)
    picture = io.BytesIO()
    canvas.print_figure(picture, format="png", dpi=80)
    write_atomically(path, [picture.getvalue()])
