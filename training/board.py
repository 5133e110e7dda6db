"""TensorBoard: losses, scores and learning rate by epoch, and a fixed strip of photograph, label and prediction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import pad

from core.datasets import Dataset
from core.transforms import resize_label, resize_photo
from training.history import Row
from training.validation import FittedSegmenter

PICTURES = 4  # in the strip
STRIP_HEIGHT = 128  # pixels of a picture in the strip


class Board:
    """Writes to a folder; where that can't be written to, warns once and goes on without."""

    def __init__(self, folder: Path, first_epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        self.writer: SummaryWriter | None = None
        with self._warning():
            folder.mkdir(parents=True, exist_ok=True)
            self.writer = SummaryWriter(str(folder), purge_step=first_epoch)

    def close(self) -> None:
        """Write out what is buffered."""
        if self.writer:
            with self._warning():
                self.writer.close()

    def write(self, row: Row, strip: npt.NDArray[np.uint8]) -> None:
        """One epoch: every number of its history row, and the strip (H, W, 3) uint8 RGB."""
        if not self.writer:
            return
        epoch = int(row["epoch"])
        with self._warning():
            for key, value in row.items():
                if key != "epoch" and value is not None:
                    group, _, name = key.partition("_")
                    known = group in ("train", "val")
                    self.writer.add_scalar(f"{name}/{group}" if known else key, value, epoch)
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
    return grid.permute(1, 2, 0).numpy()  # type: ignore[no-any-return]
