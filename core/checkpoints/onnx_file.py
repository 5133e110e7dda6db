"""ONNX file: the network of a checkpoint for ONNX Runtime and other programs, with metadata and two digests at its end.

The digests are the last two entries of the model's `metadata_props`: `checkpoint_digest`, of the checkpoint that was
exported, and `digest`, the SHA-256 of all bytes before these entries. In the protobuf format, bytes that are appended to a
message add entries to it, so every program can load the file, and the digests can be checked without a protobuf library.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from core.checkpoints import safetensors_io
from core.errors import CheckpointError
from core.runtime.atomic import write_atomically

SUFFIX = ".onnx"
DIGEST_LENGTH = 64  # hexadecimal digits


@dataclass(frozen=True)
class OnnxFile:
    """A verified ONNX file in memory. The digest covers everything but the digests."""

    path: Path
    data: bytes
    digest: str


def onnx_path(checkpoint: Path) -> Path:
    """Return the path of a checkpoint's ONNX file: NAME.onnx for NAME.safetensors."""
    return checkpoint.with_suffix(SUFFIX)


def write_onnx_file(path: Path, model: bytes, checkpoint_digest: str) -> str:
    """Write a serialized model with its digests, replacing an existing file, and return the digest."""
    digest = hashlib.sha256(model).hexdigest()
    write_atomically(path, [model, _digests(checkpoint_digest, digest)])
    return digest


def read_onnx_file(path: Path, checkpoint_digest: str) -> OnnxFile:
    """Read and verify the ONNX file of the checkpoint with this digest. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such ONNX file; run python -m training export CHECKPOINT --onnx")
    data = safetensors_io.read_bytes(path)
    entries_length = len(_digests("0" * DIGEST_LENGTH, "0" * DIGEST_LENGTH))
    model, entries = data[:-entries_length], data[-entries_length:]
    digest = hashlib.sha256(model).hexdigest()
    if entries[-DIGEST_LENGTH:] != digest.encode():
        raise CheckpointError(
            f"{path}: damaged, changed, or not exported by this project: it does not end with its digest; copy it again, or"
            " run python -m training export CHECKPOINT --onnx"
        )
    if entries != _digests(checkpoint_digest, digest):
        raise CheckpointError(f"{path}: made from another checkpoint than the one beside it; export it again")
    return OnnxFile(path, data, digest)


def _digests(checkpoint_digest: str, digest: str) -> bytes:
    """Return both digests as entries of `metadata_props`, which is field 14 of the ONNX message ModelProto.

    Each is a field of type string that contains a message: the key is its field 1, the value its field 2.
    """
    entries = b""
    for key, value in ((b"checkpoint_digest", checkpoint_digest.encode()), (b"digest", digest.encode())):
        entry = b"".join(bytes([field << 3 | 2, len(text)]) + text for field, text in ((1, key), (2, value)))
        entries += bytes([14 << 3 | 2, len(entry)]) + entry
    return entries
