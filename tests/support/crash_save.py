"""Save an epoch into a small run directory, and check what a restart recovers after the save was interrupted.

python -m tests.support.crash_save RUN_DIR      saves a third epoch (`make soak` injects faults into this process)
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np

from core.checkpoints.checkpoint import Architecture, CheckpointMetadata, read_checkpoint
from core.data.labels import CITYSCAPES
from core.images.resize import Preprocess
from training.tracking.run_dir import RunDir

TRACE_MARKER = "save-begins"
"""Name of a file that the process tries to delete just before it saves, so that a trace of system calls shows where."""


def tiny_tensors(value: float) -> dict[str, np.ndarray]:
    return {"weight": np.full((3, 5), value, np.float32), "bias": np.full(3, value, np.float32)}


def save_epoch(run_dir: RunDir, epoch: int) -> None:
    """Write every file that a training epoch writes: checkpoints, history and resume state."""
    metadata = CheckpointMetadata(
        architecture=Architecture(name="ddunet", width=2), labels=CITYSCAPES, preprocess=Preprocess(), data="x", epoch=epoch
    )
    run_dir.save_epoch(epoch, metadata, tiny_tensors(epoch), is_best=True, keep=1)
    run_dir.append_history({"epoch": epoch, "loss": 1 / epoch})
    run_dir.save_resume(epoch, 0, {"epoch": epoch}, tiny_tensors(epoch))


def write_two_epochs(run_dir: RunDir) -> None:
    """Create the run directory with two complete epochs."""
    for path in (run_dir.checkpoints, run_dir.resume):
        path.mkdir(parents=True)
    save_epoch(run_dir, 1)
    save_epoch(run_dir, 2)


def recoverable_epochs(run_dir: RunDir) -> set[int]:
    """Return the epochs of the newest resume file and of the best and last checkpoint, after checking their content."""
    _, metadata, tensors = run_dir.newest_resume() or (None, {}, {})
    assert np.array_equal(tensors["weight"], tiny_tensors(metadata["epoch"])["weight"])
    epochs = {metadata["epoch"]}
    for name in ("best", "last"):
        checkpoint = read_checkpoint(run_dir.checkpoints / f"{name}.safetensors")
        assert np.array_equal(checkpoint.tensors["weight"], tiny_tensors(checkpoint.metadata.epoch)["weight"])
        epochs.add(checkpoint.metadata.epoch)
    assert [row["epoch"] for row in run_dir.read_history()] in ([1, 2], [1, 2, 3])
    return epochs


def describe_recovery(run_dir: RunDir) -> str:
    """Return "old", "new" or "new old" for the epochs that a restart recovers, or "CORRUPT: ..." if it can't."""
    try:
        return " ".join(sorted("old" if epoch == 2 else "new" for epoch in recoverable_epochs(run_dir)))
    except Exception as error:
        return f"CORRUPT: {type(error).__name__} {error}"


if __name__ == "__main__":
    with suppress(OSError):
        os.unlink(f"/{TRACE_MARKER}")  # noqa: PTH108 -- exactly one system call
    try:
        save_epoch(RunDir(Path(sys.argv[1])), 3)
    except OSError:
        os._exit(1)
    os._exit(0)
