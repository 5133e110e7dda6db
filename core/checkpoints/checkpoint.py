"""Checkpoint: the weights of a network with everything that serving them needs, in one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core import __version__
from core.checkpoints import safetensors_io
from core.checkpoints.legacy import upgrade_checkpoint, upgrade_tensors
from core.checkpoints.safetensors_io import Tensors
from core.data.labels import LabelSpace
from core.errors import CheckpointError, TrainingError, first_validation_error
from core.images.resize import Preprocess

SCHEMA: Literal[2] = 2
SUFFIX = ".safetensors"
PRETRAINED = Path(__file__).parents[1] / "pretrained"


class Architecture(BaseModel):
    """The name of a model that `core.models.build_model` knows and its width; the classes are those of the label space."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    width: int = Field(ge=1, le=1024)


class TrainingStage(BaseModel):
    """One training on the way to a checkpoint; a later stage starts from the weights of the one before (`--init`).

    Attributes:
        command: The command line, without paths of the computer: the data by its directory's name, no run directory.
        data: Name of the training data.
        images: Number of training images.
        seed: Random seed.
        epochs: Completed epochs, of those that the command specifies.
        hours: Wall-clock time of the training steps of all epochs. Only exported checkpoints have it, so that two equal
            trainings write equal checkpoints.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: str
    data: str
    images: int = Field(ge=1)
    seed: int = Field(ge=0)
    epochs: int = Field(ge=0)
    hours: float | None = None


class Calibration(BaseModel):
    """Temperature scaling of the confidence.

    Attributes:
        temperature: Divisor of the logits.
        ece_before: Expected calibration error, 0..1, with the temperature 1.
        ece_after: The same with the temperature.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(gt=0, allow_inf_nan=False)
    ece_before: float
    ece_after: float


class CheckpointMetadata(BaseModel):
    """The JSON document in a checkpoint file, without its digest.

    Attributes:
        schema_version: Version of this schema; version 1 is upgraded on reading.
        architecture: The network that the weights belong to.
        labels: The classes, in the order of the network's outputs.
        preprocess: How an image becomes the input of the network.
        data: Name of the training data.
        epoch: Epoch after which the weights were saved.
        scores: Headline scores, 0..1, on the data that `scored_on` describes.
        scored_on: Description of the data that was evaluated.
        stages: The trainings that led to the weights; the last one wrote this checkpoint.
        calibration: Temperature of the confidence, from the data of `scored_on`; it changes no label.
        license: License of the weights, which follows from that of the data.
        limitations: One sentence about what the network was not trained for.
        code_version: Version of this project that wrote the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2] = SCHEMA
    architecture: Architecture
    labels: LabelSpace
    preprocess: Preprocess
    data: str
    epoch: int = Field(ge=0)
    scores: dict[str, float | None] = {}
    scored_on: str | None = None
    stages: tuple[TrainingStage, ...] = ()
    calibration: Calibration | None = None
    license: str | None = None
    limitations: str | None = None
    code_version: str = __version__


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory: `tensors` by their names in the network's state dict, and the file that they came from."""

    name: str
    path: Path
    metadata: CheckpointMetadata
    tensors: Tensors
    digest: str


def write_checkpoint(path: Path, metadata: CheckpointMetadata, tensors: Tensors) -> str:
    """Write a checkpoint atomically and return its digest. Raises TrainingError if a weight is not finite."""
    broken = first_nonfinite(tensors)
    if broken:
        raise TrainingError(
            f"{path}: not written, because {broken} is not finite; resume from an earlier epoch with a lower learning rate"
        )
    return safetensors_io.write(path, metadata.model_dump(mode="json"), tensors)


def read_checkpoint(path: Path, name: str | None = None) -> Checkpoint:
    """Read and verify a checkpoint; `name` defaults to the file's stem. Raises CheckpointError."""
    document, tensors = safetensors_io.read(path)
    tensors, metadata = upgrade_tensors(document, tensors), _parse_metadata(path, document)
    broken = first_nonfinite(tensors)
    if broken:
        raise CheckpointError(f"{path}: {broken} contains NaN or infinity; use the checkpoint of another epoch")
    return Checkpoint(name or path.stem, path, metadata, tensors, document["digest"])


def read_metadata(path: Path) -> CheckpointMetadata:
    """Read the metadata of a checkpoint without its weights and without verifying its digest. Raises CheckpointError."""
    return _parse_metadata(path, safetensors_io.read_document(path))


def _parse_metadata(path: Path, document: safetensors_io.Metadata) -> CheckpointMetadata:
    document = upgrade_checkpoint({key: value for key, value in document.items() if key != "digest"})
    version = document.get("schema_version")
    if version != SCHEMA:
        raise CheckpointError(f"{path}: has schema version {version!r}, expected {SCHEMA} or lower; update this project")
    try:
        return CheckpointMetadata.model_validate(document)
    except ValidationError as error:
        raise CheckpointError(f"{path}: the metadata is not that of a checkpoint ({first_validation_error(error)})") from None


def first_nonfinite(tensors: Tensors) -> str | None:
    """Return the name of the first tensor that contains NaN or infinity, or None."""
    return next((n for n, a in sorted(tensors.items()) if a.dtype.kind == "f" and not np.isfinite(a).all()), None)


def find_checkpoint(source: str | Path) -> tuple[str, Path]:
    """Return the name and the file of a checkpoint.

    `source` is a checkpoint file, a run directory (its best checkpoint) or the name of a bundled checkpoint.
    Raises CheckpointError if it is none of these.
    """
    path = Path(source)
    if path.is_dir():
        best = best_checkpoint(path)
        if best:
            return best
        raise CheckpointError(
            f"{path}: a directory without checkpoints/best{SUFFIX}; expected a run directory or a checkpoint file"
        )
    if path.is_file():
        return path.stem, path
    bundled = bundled_checkpoints()
    if str(source) in bundled:
        return str(source), bundled[str(source)]
    raise CheckpointError(
        f"{source}: no such checkpoint; expected a {SUFFIX} file, a run directory such as runs/ddunet"
        + (f", or the name of a bundled checkpoint: {', '.join(bundled)}" if bundled else "")
    )


def best_checkpoint(run_dir: Path) -> tuple[str, Path] | None:
    """Return the name of a run directory and the file of its best checkpoint, or None if it has none."""
    path = run_dir / "checkpoints" / f"best{SUFFIX}"
    return (run_dir.resolve().name, path) if path.is_file() else None


def bundled_checkpoints() -> dict[str, Path]:
    """Return the files of the checkpoints that come with the project, by name."""
    return {file.stem: file for file in sorted(PRETRAINED.glob(f"*{SUFFIX}"))}


def headline_scores(scores: Any) -> dict[str, float | None]:
    """Return the scores that checkpoint metadata holds, by name."""
    return {key: getattr(scores, key) for key in ("pixel_accuracy", "miou", "miou_present")}
