"""Exported model: the network of a checkpoint for OpenVINO, in a directory beside the checkpoint, with a manifest."""

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
from core.checkpoints.legacy import upgrade_export
from core.checkpoints.onnx_file import onnx_path
from core.errors import CheckpointError, first_validation_error
from core.runtime.atomic import makedirs_durable, replace_directory, temp_path_for, write_atomically
from core.runtime.files import file_version

SCHEMA: Literal[2] = 2
Precision = Literal["int8", "fp32"]
PRECISIONS: tuple[Precision, ...] = ("int8", "fp32")  # in the order of preference
MANIFEST_FILE, XML_FILE, BIN_FILE = "manifest.json", "model.xml", "model.bin"
LEGACY_MANIFEST_FILE = "card.json"  # of schema version 1


class ExportManifest(BaseModel):
    """The manifest of an exported model, without its digest.

    Attributes:
        schema_version: Version of this schema; version 1 is upgraded on reading.
        precision: Precision of the weights and the arithmetic.
        checkpoint_digest: Digest of the checkpoint that was exported.
        files: SHA-256 of each file, by name.
        calibration: Description of the images that the int8 ranges were measured on.
        scores: Headline scores, 0..1, on the data that `scored_on` describes.
        checkpoint_scores: The same scores of the checkpoint in fp32.
        pixel_agreement: Fraction of pixels, 0..1, to which both give the same class.
        scored_on: Description of the data that was evaluated.
        fp32_layers: Names of the layers that stayed in fp32.
        package_versions: Versions of the packages that made it, by name.
        code_version: Version of this project that wrote it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2] = SCHEMA
    precision: Precision
    checkpoint_digest: str
    files: dict[str, str]
    calibration: str | None = None
    scores: dict[str, float | None] = {}
    checkpoint_scores: dict[str, float | None] = {}
    pixel_agreement: float | None = None
    scored_on: str | None = None
    fp32_layers: tuple[str, ...] = ()
    package_versions: dict[str, str] = {}
    code_version: str = __version__


@dataclass(frozen=True)
class ExportedModel:
    """An exported model in memory. The digest covers the manifest, and with it the files, whose hashes are listed there."""

    directory: Path
    manifest: ExportManifest
    digest: str
    files: dict[str, bytes]


def export_dir(checkpoint: Path, precision: str) -> Path:
    """Return the directory of a checkpoint's exported model: NAME.int8 for NAME.safetensors."""
    return checkpoint.with_name(f"{checkpoint.stem}.{precision}")


def export_files(checkpoint: Path) -> list[Path]:
    """Return the paths of the files of all exported models that a checkpoint can have, whether they exist or not."""
    openvino_files = [
        export_dir(checkpoint, precision) / name
        for precision in PRECISIONS
        for name in (MANIFEST_FILE, LEGACY_MANIFEST_FILE, XML_FILE, BIN_FILE)
    ]
    return [*openvino_files, onnx_path(checkpoint)]


def write_exported_model(directory: Path, manifest: ExportManifest, files: dict[str, bytes]) -> str:
    """Write an exported model as a whole, replacing an existing one, and return its digest."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    document = manifest.model_copy(update={"files": hashes}).model_dump(mode="json")
    digest = safetensors_io.digest(document, {})
    new = temp_path_for(directory)
    makedirs_durable(new)
    try:
        for name, data in {**files, MANIFEST_FILE: _serialize(document, digest)}.items():
            write_atomically(new / name, [data])
        replace_directory(new, directory)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return digest


def read_exported_model(directory: Path, checkpoint_digest: str) -> ExportedModel:
    """Read and verify an exported model of the checkpoint with this digest. Raises CheckpointError."""
    while True:
        version = file_version(directory)
        try:
            return _read_files(directory, checkpoint_digest)
        except CheckpointError:
            if file_version(directory) == version:
                raise
        # The directory was replaced meanwhile, so the files were those of two exports.


def _read_files(directory: Path, checkpoint_digest: str) -> ExportedModel:
    if not directory.is_dir():
        flags = "--int8 --data DIR" if directory.suffix == ".int8" else "--fp32"
        raise CheckpointError(f"{directory}: no such exported model; run python -m training export CHECKPOINT {flags}")
    manifest, digest = _read_manifest(directory)
    if directory.suffix != f".{manifest.precision}":
        raise CheckpointError(
            f"{directory}: the manifest is that of an {manifest.precision} model, whose directory must end with"
            f" .{manifest.precision}; rename it or export the model again"
        )
    if manifest.checkpoint_digest != checkpoint_digest:
        raise CheckpointError(
            f"{directory}: made from another checkpoint ({manifest.checkpoint_digest[:16]}) than the one beside it"
            f" ({checkpoint_digest[:16]}); export it again"
        )
    files = {name: safetensors_io.read_bytes(directory / name) for name in (XML_FILE, BIN_FILE)}
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != manifest.files.get(name):
            raise CheckpointError(
                f"{directory / name}: damaged, it does not match its hash in the manifest; copy it again, or export it again"
            )
    return ExportedModel(directory, manifest, digest, files)


def _serialize(document: dict[str, Any], digest: str) -> bytes:
    return (json.dumps({**document, "digest": digest}, indent=2, ensure_ascii=False) + "\n").encode()


def _read_manifest(directory: Path) -> tuple[ExportManifest, str]:
    """Return the manifest, upgraded to the current schema, and the digest of the document in the file."""
    path = directory / MANIFEST_FILE
    if not path.exists() and (directory / LEGACY_MANIFEST_FILE).exists():
        path = directory / LEGACY_MANIFEST_FILE
    try:
        data = safetensors_io.read_bytes(path)
        document: dict[str, Any] = dict(json.loads(data))
        digest = document.pop("digest", None)
        manifest = ExportManifest.model_validate(upgrade_export(document))
    except ValidationError as error:
        raise CheckpointError(f"{path}: not the manifest of an exported model ({first_validation_error(error)})") from None
    except CheckpointError:
        raise
    except (ValueError, TypeError, RecursionError):
        raise CheckpointError(f"{path}: not the manifest of an exported model; expected a JSON object") from None
    # The bytes are compared as well, because 1e-05 and 1E-05 are the same number with the same digest.
    if digest != safetensors_io.digest(document, {}) or data != _serialize(document, digest):
        raise CheckpointError(f"{path}: damaged, it does not match its digest; copy it again, or export it again")
    return manifest, digest
