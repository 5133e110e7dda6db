"""Checkpoint: weights with everything that is needed to serve them: architecture, labels, preprocessing, history."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core import __version__
from core.checkpoints import safetensors_io
from core.checkpoints.safetensors_io import Tensors
from core.data.labels import LabelSpace
from core.errors import CheckpointError, RunError, first_fault
from core.images.resize import Preprocess

SCHEMA: Literal[1] = 1
SUFFIX = ".safetensors"
PRETRAINED = Path(__file__).parents[1] / "pretrained"


class Architecture(BaseModel):
    """A name that `core.models.build_model` knows, and its width; the classes are those of the label space."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    width: int = Field(ge=1, le=1024)


class Leg(BaseModel):
    """One training on the way to a checkpoint; a later one started from the weights of the one before (`--init`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: str  # without what names this machine: data by its folder's name, no run folder
    data: str
    images: int = Field(ge=1)
    seed: int = Field(ge=0)
    epochs: int = Field(ge=0)  # done, of those that the command says
    hours: float | None = None  # of the steps of all its epochs, told at export: two equal trainings have equal checkpoints


class Card(BaseModel):
    """What a checkpoint file says of itself, beside its digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = SCHEMA
    architecture: Architecture
    labels: LabelSpace
    preprocess: Preprocess
    data: str
    epoch: int = Field(ge=0)
    scores: dict[str, float | None] = {}
    scored_on: str | None = None  # the data that the scores are of
    legs: tuple[Leg, ...] = ()  # the last one is its own training
    licence: str | None = None  # of the weights, which follows from the data's
    limits: str | None = None  # what it was never taught, in a sentence
    code_version: str = __version__


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory: `tensors` by the names of the network's state, and where it came from."""

    name: str
    path: Path
    card: Card
    tensors: Tensors
    digest: str


def write_checkpoint(path: Path, card: Card, tensors: Tensors) -> str:
    """Write a checkpoint atomically and return its digest. Raises RunError where a weight is not finite."""
    broken = not_finite(tensors)
    if broken:
        raise RunError(f"{path}: not written: {broken} is not finite; go on from an earlier epoch with a lower learning rate")
    return safetensors_io.write(path, card.model_dump(mode="json"), tensors)


def read_checkpoint(path: Path, name: str | None = None) -> Checkpoint:
    """Read and check a checkpoint; `name` defaults to the file's stem. Raises CheckpointError."""
    document, tensors = safetensors_io.read(path)
    own = document.pop("digest")
    version = document.get("schema_version")
    if version != SCHEMA:
        raise CheckpointError(f"{path}: has schema version {version!r}; this program reads {SCHEMA}: update it")
    try:
        card = Card.model_validate(document)
    except ValidationError as error:
        raise CheckpointError(f"{path}: its metadata is not that of a checkpoint ({first_fault(error)})") from None
    broken = not_finite(tensors)
    if broken:
        raise CheckpointError(f"{path}: the weights {broken} hold NaN or infinity; train again or use another epoch")
    return Checkpoint(name or path.stem, path, card, tensors, own)


def not_finite(tensors: Tensors) -> str | None:
    """The name of the first tensor that holds NaN or infinity, or None."""
    return next((n for n, a in sorted(tensors.items()) if a.dtype.kind == "f" and not np.isfinite(a).all()), None)


def find_checkpoint(source: str | Path) -> tuple[str, Path]:
    """(name, file) of a checkpoint given as a file, a run folder (its best) or the name of a shipped one.

    Raises CheckpointError saying what was looked for.
    """
    path = Path(source)
    if path.is_dir():
        best = best_of(path)
        if best:
            return best
        raise CheckpointError(f"{path}: a folder without checkpoints/best{SUFFIX}; expected a run folder or a file")
    if path.is_file():
        return path.stem, path
    known = shipped()
    if str(source) in known:
        return str(source), known[str(source)]
    raise CheckpointError(
        f"{source}: no such checkpoint; expected a {SUFFIX} file, a run folder such as runs/ddunet"
        + (f", or one of the shipped: {', '.join(known)}" if known else "")
    )


def best_of(folder: Path) -> tuple[str, Path] | None:
    """(name, file) of a run folder, None where it is not one: it is named after the folder and stands for its best."""
    path = folder / "checkpoints" / f"best{SUFFIX}"
    return (folder.resolve().name, path) if path.is_file() else None


def shipped() -> dict[str, Path]:
    """The checkpoints that come with the project: name -> file."""
    return {file.stem: file for file in sorted(PRETRAINED.glob(f"*{SUFFIX}"))}


def summary(scores: Any) -> dict[str, float | None]:
    """The scores that a card keeps: the leading ones, by name."""
    return {key: getattr(scores, key) for key in ("pixel_accuracy", "macro_iou", "macro_iou_labelled")}
