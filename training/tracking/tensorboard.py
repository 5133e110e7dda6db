"""TensorBoard: settings, losses, scores, IoU of each class by epoch, and a fixed strip of photographs, labels, predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import pad

from core.data.datasets import Dataset
from core.data.labels import LabelSpace
from core.evaluation.metrics import ClassScores
from core.images.resize import resize_label, resize_photo
from training.engine.validation import FittedSegmenter
from training.tracking.history import Row

PICTURES = 4  # in the strip
STRIP_HEIGHT = 128  # pixels of a picture in the strip
LEADING = ("macro_iou_labelled/val", "pixel_accuracy/val", "loss/val")  # beside the settings, in the table of runs
ENTRY, LINE = 150, 22  # pixels of an entry of the legend


class Board:
    """Writes to a folder; where that can't be written to, warns once and goes on without."""

    def __init__(self, folder: Path, first_epoch: int, settings: Mapping[str, object] | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self.folder = folder
        self.writer: SummaryWriter | None = None
        with self._warning():
            folder.mkdir(parents=True, exist_ok=True)
            self.writer = SummaryWriter(str(folder), purge_step=first_epoch)
            # into this log and not, as its own method does, into one more folder, which would be a run of its own
            for summary in hparams(_plain(settings or {}), dict.fromkeys(LEADING, 0.0)):  # type: ignore[no-untyped-call]
                self.writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Write out what is buffered."""
        if self.writer:
            with self._warning():
                self.writer.close()

    def write(self, row: Row, strip: npt.NDArray[np.uint8], classes: Sequence[ClassScores] = ()) -> None:
        """One epoch: every number of its history row, the IoU of each class, the strip (H, W, 3) uint8 RGB, and on a GPU the
        memory that it took at most."""
        if not self.writer:
            return
        epoch = int(row["epoch"])
        with self._warning():
            for key, value in row.items():
                if key != "epoch" and value is not None:
                    group, _, name = key.partition("_")
                    known = group in ("train", "val")
                    self.writer.add_scalar(f"{name}/{group}" if known else key, value, epoch)
            for found in classes:
                if found.iou is not None:
                    self.writer.add_scalar(f"iou of classes/{found.name}", found.iou, epoch)
            if torch.cuda.is_available():
                self.writer.add_scalar("gpu_memory_gb", torch.cuda.max_memory_allocated() / 1e9, epoch)
            self.writer.add_image("photograph, label, prediction", strip, epoch, dataformats="HWC")
            self.writer.flush()

    @contextmanager
    def _warning(self) -> Iterator[None]:
        """Warn once of a folder that can't be written to, and log no more."""
        try:
            yield
        except OSError as error:
            self.writer = None
            print(f"warning: {self.folder}: no TensorBoard log ({error.strerror}); training goes on", flush=True)


def picture_strip(segment: FittedSegmenter, dataset: Dataset) -> npt.NDArray[np.uint8]:
    """Evenly spaced samples of a split kept at the network's size: (H, W, 3) uint8 RGB, a row each of photograph, label
    and prediction."""
    from torchvision.utils import make_grid  # takes two seconds, which a process that draws nothing does not have

    palette = dataset.labels.palette
    tiles = []
    for index in np.linspace(0, len(dataset) - 1, min(PICTURES, len(dataset))).astype(int):
        rgb, labels = dataset[int(index)]
        height, width = labels.shape
        size = STRIP_HEIGHT, max(1, round(STRIP_HEIGHT * width / height))
        maps = [palette[resize_label(ids, size)] for ids in (labels, segment([rgb], [(height, width)])[0])]
        tiles += [torch.from_numpy(np.ascontiguousarray(tile)).permute(2, 0, 1) for tile in (resize_photo(rgb, size), *maps)]
    widest = max(tile.shape[2] for tile in tiles)
    grid = make_grid([pad(tile, (0, widest - tile.shape[2])) for tile in tiles], nrow=3, padding=4)
    strip: npt.NDArray[np.uint8] = grid.permute(1, 2, 0).numpy()
    return np.vstack([strip, legend(dataset.labels, strip.shape[1])])


def legend(space: LabelSpace, width: int) -> npt.NDArray[np.uint8]:
    """The classes' colours and names, in columns: (H, width, 3) uint8 RGB."""
    columns = max(1, width // ENTRY)
    drawn = np.full((LINE * -(-len(space) // columns), width, 3), 255, np.uint8)
    for k, (name, colour) in enumerate(zip(space.names, space.colours, strict=True)):
        x, y = k % columns * ENTRY, k // columns * LINE
        cv2.rectangle(drawn, (x + 4, y + 4), (x + 20, y + LINE - 4), colour, -1)
        plain = name.encode("ascii", "replace").decode()  # the letters that OpenCV can draw
        cv2.putText(drawn, plain, (x + 26, y + LINE - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return drawn


def _plain(settings: Mapping[str, object]) -> dict[str, bool | float | str]:
    """Settings as TensorBoard takes them: numbers, words, and pairs as words; what is not set is left out."""
    values = {key: "x".join(map(str, value)) if isinstance(value, tuple) else value for key, value in settings.items()}
    return {key: value for key, value in values.items() if isinstance(value, bool | int | float | str)}
