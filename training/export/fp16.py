"""Checkpoints for distribution: weights in fp16, metadata complete, and the training history beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from core.backends.base import TORCH
from core.checkpoints.checkpoint import Checkpoint, CheckpointMetadata, write_checkpoint
from core.checkpoints.safetensors_io import Tensors
from core.data.datasets import Dataset, describe_dataset
from core.errors import InputError
from core.inference.segmenter import Segmenter
from training.evaluation import evaluate_scores
from training.export.calibration import fit_temperature
from training.tracking.history import Row, history_beside, history_files, read_rows, read_table, split_stages, write_table


def export_fp16(
    source: Checkpoint, path: Path, dataset: Dataset | None, license: str | None, limitations: str | None
) -> tuple[str, dict[str, float | None], bool]:
    """Write a checkpoint with fp16 weights, and `NAME.history.csv` beside it if the source has a history.

    Args:
        source: The checkpoint to convert.
        path: The file to write.
        dataset: Labeled data for the scores and the calibration in the metadata; without it the metadata has none.
        license: License of the weights; None keeps that of the source.
        limitations: Limitations of the model; None keeps those of the source.

    Returns:
        The digest, the headline scores of the fp16 weights, and whether a history was written.

    Raises:
        InputError: A weight exceeds the range of fp16, or the history or the data can't be used.
    """
    files = history_files(source.path)
    history, (rows, columns) = read_rows(*files), read_table(*files)
    tensors = to_fp16(source)
    converted = replace(source, tensors=tensors)
    scores = evaluate_scores(converted, dataset) if dataset else {}
    calibration = fit_temperature(Segmenter(converted, "cpu", TORCH), dataset) if dataset else None
    metadata = complete_metadata(source.metadata, history, license, limitations).model_copy(
        update={"scores": scores, "scored_on": describe_dataset(dataset) if dataset else None, "calibration": calibration}
    )
    digest = write_checkpoint(path, metadata, tensors)
    history_beside(path).unlink(missing_ok=True)  # That of another checkpoint that was replaced.
    if history:
        write_table(history_beside(path), rows, columns)
    return digest, scores, bool(history)


def to_fp16(source: Checkpoint) -> Tensors:
    """Return the convolution weights as float16; biases and batch norm statistics, which are few, stay float32.

    Raises InputError if a weight exceeds the range of float16.
    """
    tensors: Tensors = {}
    for name, array in source.tensors.items():
        with np.errstate(over="ignore"):
            tensors[name] = array.astype(np.float16) if array.ndim > 1 else array
        if not np.isfinite(tensors[name]).all():
            raise InputError(
                f"{source.path}: {name} contains {abs(array).max():g}, but fp16 ends at 65504; distribute the fp32 checkpoint"
            )
    return tensors


def complete_metadata(
    metadata: CheckpointMetadata, history: list[Row], license: str | None, limitations: str | None
) -> CheckpointMetadata:
    """Return the metadata with license, limitations, and the training hours of the stages that the history covers.

    A stage's hours count all of its epochs, also those after the best one. The history of the oldest stages may be missing.
    """
    stages = list(metadata.stages)
    for back, rows in enumerate(reversed(split_stages(history)), 1):
        if back <= len(stages) and (back == 1 or stages[-back].hours is None):
            seconds = sum(row.get("seconds") or 0 for row in rows)
            stages[-back] = stages[-back].model_copy(update={"hours": round(seconds / 3600, 3)})
    return metadata.model_copy(
        update={
            "license": license or metadata.license,
            "limitations": limitations or metadata.limitations,
            "stages": tuple(stages),
        }
    )
