"""Artefact: a checkpoint's network for another back end, in a folder beside it, with a card that tells what it is made of."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from core import __version__
from core.checkpoints import safetensors_io
from core.errors import CheckpointError, first_fault
from core.runtime.files import make_folder, sync_folder, temporary_beside, write_atomically

SCHEMA: Literal[1] = 1
Precision = Literal["int8", "fp32"]
PRECISIONS: tuple[Precision, ...] = ("int8", "fp32")  # the first that is there is taken
CARD, NETWORK, WEIGHTS = "card.json", "model.xml", "model.bin"


class ArtefactCard(BaseModel):
    """What an artefact says of itself, beside its digest; scores are 0..1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = SCHEMA
    precision: Precision
    source: str  # the digest of the checkpoint
    files: dict[str, str]  # SHA-256 of each
    calibration: str | None = None  # the data that the ranges of int8 were measured on
    scores: dict[str, float | None] = {}
    source_scores: dict[str, float | None] = {}  # of the checkpoint in fp32, on the same data
    same_pixels: float | None = None  # the share of them to which both give the same class
    scored_on: str | None = None
    kept: tuple[str, ...] = ()  # layers that stayed in fp32
    made_with: dict[str, str] = {}  # package: version
    code_version: str = __version__


@dataclass(frozen=True)
class Artefact:
    """An artefact in memory; the digest is over its card, and so over its files."""

    folder: Path
    card: ArtefactCard
    digest: str
    files: dict[str, bytes]


def beside(checkpoint: Path, precision: str) -> Path:
    """The folder of a checkpoint's artefact: NAME.safetensors has NAME.int8."""
    return checkpoint.with_name(f"{checkpoint.stem}.{precision}")


def files_beside(checkpoint: Path) -> list[Path]:
    """The files of all artefacts that a checkpoint may have, whether they are there or not."""
    return [beside(checkpoint, precision) / name for precision in PRECISIONS for name in (CARD, NETWORK, WEIGHTS)]


def write_artefact(folder: Path, card: ArtefactCard, files: dict[str, bytes]) -> str:
    """Write the folder whole, in place of one that stands there, and return its digest."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    document = card.model_copy(update={"files": hashes}).model_dump(mode="json")
    own = safetensors_io.digest(document, {})
    new, old = temporary_beside(folder), temporary_beside(folder)
    make_folder(new)
    try:
        for name, data in {**files, CARD: _written(document, own)}.items():
            write_atomically(new / name, [data])
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return own


def read_artefact(folder: Path, source: str) -> Artefact:
    """Read and check an artefact of the checkpoint with the digest `source`. Raises CheckpointError."""
    if not folder.is_dir():
        made = "--int8 --data DIR" if folder.suffix == ".int8" else "--fp32"
        raise CheckpointError(f"{folder}: no such artefact; make it: python -m training export CHECKPOINT {made}")
    card, own = _read_card(folder)
    if folder.suffix != f".{card.precision}":
        raise CheckpointError(f"{folder}: its card says {card.precision}; the folder's name has to end with .{card.precision}")
    if card.source != source:
        raise CheckpointError(
            f"{folder}: made from another checkpoint ({card.source[:16]}) than the one beside it ({source[:16]});"
            " export it again"
        )
    files = {name: safetensors_io.read_bytes(folder / name) for name in (NETWORK, WEIGHTS)}
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != card.files.get(name):
            raise CheckpointError(f"{folder / name}: damaged: it does not match its card; copy it again, or export it again")
    return Artefact(folder, card, own, files)


def _written(document: dict[str, Any], digest: str) -> bytes:
    return (json.dumps({**document, "digest": digest}, indent=2, ensure_ascii=False) + "\n").encode()


def _read_card(folder: Path) -> tuple[ArtefactCard, str]:
    path = folder / CARD
    try:
        data = safetensors_io.read_bytes(path)
        document: dict[str, Any] = dict(json.loads(data))
        own = document.pop("digest", None)
        card = ArtefactCard.model_validate(document)
    except ValidationError as error:
        raise CheckpointError(f"{path}: not the card of an artefact ({first_fault(error)})") from None
    except CheckpointError:
        raise
    except (ValueError, TypeError, RecursionError):
        raise CheckpointError(f"{path}: not the card of an artefact: no JSON object") from None
    # 1e-05 and 1E-05 are one number and one digest: a card is taken only as it was written
    if own != safetensors_io.digest(document, {}) or data != _written(document, own):
        raise CheckpointError(f"{path}: damaged: it does not match its digest; copy it again, or export it again")
    return card, own
