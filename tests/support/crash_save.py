"""A small run folder, a save into it, which tests and `make soak` strike, and what a restart finds there.

python -m tests.support.crash_save FOLDER      saves a third epoch
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np

from core.checkpoints.checkpoint import Architecture, Card, read_checkpoint
from core.data.labels import CITYSCAPES
from core.images.resize import Preprocess
from training.tracking.run_dir import RunFolder

MARK = "the save begins here"


def tensors(value: float) -> dict[str, np.ndarray]:
    return {"weight": np.full((3, 5), value, np.float32), "bias": np.full(3, value, np.float32)}


def save(folder: RunFolder, epoch: int) -> None:
    """Everything that an epoch writes, small."""
    architecture = Architecture(name="ddunet", width=2)
    card = Card(architecture=architecture, labels=CITYSCAPES, preprocess=Preprocess(), data="x", epoch=epoch)
    folder.save_epoch(epoch, card, tensors(epoch), best=True, keep=1)
    folder.append_history({"epoch": epoch, "loss": 1 / epoch})
    folder.save_resume(epoch, 0, {"epoch": epoch}, tensors(epoch))


def what_is_there(folder: RunFolder) -> set[int]:
    """Epochs that a restart finds: by resume file, best and last; every file must be whole."""
    _, document, found = folder.newest_resume() or (None, {}, {})
    assert np.array_equal(found["weight"], tensors(document["epoch"])["weight"])
    epochs = {document["epoch"]}
    for name in ("best", "last"):
        checkpoint = read_checkpoint(folder.checkpoints / f"{name}.safetensors")
        assert np.array_equal(checkpoint.tensors["weight"], tensors(checkpoint.card.epoch)["weight"])
        epochs.add(checkpoint.card.epoch)
    assert [row["epoch"] for row in folder.read_history()] in ([1, 2], [1, 2, 3])
    return epochs


def prepare(folder: RunFolder) -> None:
    """Two whole epochs."""
    for path in (folder.checkpoints, folder.resume):
        path.mkdir(parents=True)
    save(folder, 1)
    save(folder, 2)


def look(folder: RunFolder) -> str:
    """Whether a restart finds the old epoch, the new one, or both, by resume file, best and last; or what is not whole."""
    try:
        return " ".join(sorted("old" if epoch == 2 else "new" for epoch in what_is_there(folder)))
    except Exception as error:
        return f"NOT WHOLE: {type(error).__name__} {error}"


if __name__ == "__main__":
    with suppress(OSError):
        os.unlink(f"/{MARK}")  # noqa: PTH108 -- what the trace of system calls is read from
    try:
        save(RunFolder(Path(sys.argv[1])), 3)
    except OSError:
        os._exit(1)
    os._exit(0)
