"""TensorBoard log: settings, losses, scores and per-class IoU by epoch, and a grid of validation samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch.nn.functional import pad

from core.data.datasets import Dataset
from core.data.labels import LabelSpace
from core.evaluation.metrics import ClassScores
from core.images.decode import RGB
from core.images.resize import resize_image, resize_label
from training.engine.validation import PreresizedSegmenter
from training.tracking.history import Row
from training.tracking.optional_outputs import BestEffort

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

MAX_SAMPLES = 4  # rows of the sample grid
CELL_HEIGHT = 128  # pixels
HPARAM_METRICS = ("miou_present/val", "pixel_accuracy/val", "loss/val")  # columns beside the settings in the table of runs
LEGEND_CELL = (150, 22)  # width and height in pixels


class TensorBoardLogger:
    """Writes to a log directory; after a failure, it prints one warning and writes nothing more."""

    def __init__(self, log_dir: Path, first_epoch: int, settings: Mapping[str, object] | None = None) -> None:
        """Start the log, or continue it with `first_epoch`: later entries of an interrupted run are discarded."""
        self.writer: SummaryWriter | None = None
        self.output = BestEffort(log_dir, "TensorBoard log")
        with self.output:
            from torch.utils.tensorboard import SummaryWriter
            from torch.utils.tensorboard.summary import hparams

            log_dir.mkdir(parents=True, exist_ok=True)
            self.writer = SummaryWriter(str(log_dir), purge_step=first_epoch)
            # SummaryWriter.add_hparams would create a subdirectory, which TensorBoard shows as another run.
            for summary in hparams(_hparams(settings or {}), dict.fromkeys(HPARAM_METRICS, 0.0)):  # type: ignore[no-untyped-call]
                self.writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]

    def write(self, row: Row, make_grid: Callable[[], RGB], classes: Sequence[ClassScores] = ()) -> None:
        """Log one epoch.

        Args:
            row: Its row of the history; each number becomes a scalar.
            make_grid: Returns the sample grid (H, W, 3), uint8 RGB; called only if the log can be written.
            classes: The scores of each class, of which the IoU is logged.
        """
        if self.writer is None or self.output.failed:
            return
        with self.output:
            epoch = int(row["epoch"])
            for key, value in row.items():
                if key != "epoch" and value is not None:
                    split, _, name = key.partition("_")
                    name, slash, dataset = name.partition("/")
                    tag = f"{name}/{split}{slash}{dataset}" if split in ("train", "val") else key
                    self.writer.add_scalar(tag, value, epoch)
            for scores in classes:
                if scores.iou is not None:
                    self.writer.add_scalar(f"iou of classes/{scores.name}", scores.iou, epoch)
            if torch.cuda.is_available():
                self.writer.add_scalar("gpu_memory_gb", torch.cuda.max_memory_allocated() / 1e9, epoch)
            self.writer.add_image("image, label, prediction", make_grid(), epoch, dataformats="HWC")
            self.writer.flush()

    def close(self) -> None:
        """Flush and close the log."""
        if self.writer is not None and not self.output.failed:
            with self.output:
                self.writer.close()


def sample_grid(segment: PreresizedSegmenter, dataset: Dataset) -> RGB:
    """Draw evenly spaced samples, one row each of image, label and prediction, with a legend of the classes below.

    Args:
        segment: The current network.
        dataset: A split whose images have the size of the network's input.

    Returns:
        Image (H, W, 3), uint8 RGB.
    """
    from torchvision.utils import make_grid  # importing it takes two seconds, which only the main process spends

    palette = dataset.labels.palette
    cells = []
    for index in np.linspace(0, len(dataset) - 1, min(MAX_SAMPLES, len(dataset))).astype(int):
        rgb, labels = dataset[int(index)]
        height, width = labels.shape
        size = CELL_HEIGHT, max(1, round(CELL_HEIGHT * width / height))
        masks = [palette[resize_label(ids, size)] for ids in (labels, segment([rgb], [(height, width)])[0])]
        cells += [torch.from_numpy(np.ascontiguousarray(cell)).permute(2, 0, 1) for cell in (resize_image(rgb, size), *masks)]
    max_width = max(cell.shape[2] for cell in cells)
    grid = make_grid([pad(cell, (0, max_width - cell.shape[2])) for cell in cells], nrow=3, padding=4)
    samples: RGB = grid.permute(1, 2, 0).numpy()
    return np.vstack([samples, legend(dataset.labels, samples.shape[1])])


def legend(space: LabelSpace, width: int) -> RGB:
    """Draw the colors and names of the classes in columns: an image (H, width, 3), uint8 RGB."""
    cell_width, cell_height = LEGEND_CELL
    columns = max(1, width // cell_width)
    canvas = np.full((cell_height * -(-len(space) // columns), width, 3), 255, np.uint8)
    for index, (name, color) in enumerate(zip(space.names, space.colors, strict=True)):
        x, y = index % columns * cell_width, index // columns * cell_height
        cv2.rectangle(canvas, (x + 4, y + 4), (x + 20, y + cell_height - 4), color, -1)
        ascii_name = name.encode("ascii", "replace").decode()  # OpenCV draws no other characters
        cv2.putText(
            canvas, ascii_name, (x + 26, y + cell_height - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA
        )
    return canvas


def _hparams(settings: Mapping[str, object]) -> dict[str, bool | float | str]:
    """Convert settings to the types that TensorBoard accepts: tuples become text, None is left out."""
    values = {key: "x".join(map(str, value)) if isinstance(value, tuple) else value for key, value in settings.items()}
    return {key: value for key, value in values.items() if isinstance(value, bool | int | float | str)}
