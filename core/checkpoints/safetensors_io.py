"""Tensors and one JSON document in a safetensors file, written atomically and verified by a digest.

The safetensors format detects damage to its layout only; a flipped bit in a weight or in the metadata would load
silently. So the document carries a SHA-256 over its own canonical JSON and over the name, dtype, shape and bytes of
each tensor.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from core.errors import CheckpointError
from core.runtime.atomic import write_atomically

Metadata = dict[str, Any]
Tensors = dict[str, npt.NDArray[Any]]

METADATA_KEY = "segment"  # the only entry of the safetensors metadata; its value is the JSON document
MAX_HEADER = 4 << 20  # bytes; files of this project have about 50 KB, and parsing a header of 56 MB took seconds


def digest(document: Metadata, tensors: Tensors) -> str:
    """Return the SHA-256, in hexadecimal, of the document without its `digest` and of every tensor."""
    content = {key: value for key, value in document.items() if key != "digest"}
    state = hashlib.sha256(_canonical(content))
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        # The shape is taken from the original tensor, because `ascontiguousarray` makes a scalar one-dimensional.
        state.update(_canonical([name, array.dtype.str, list(tensors[name].shape)]))
        state.update(array.reshape(-1).view(np.uint8).data)
    return state.hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def write(path: Path, document: Metadata, tensors: Tensors) -> str:
    """Write the file atomically and return its digest."""
    file_digest = digest(document, tensors)
    text = _canonical({**document, "digest": file_digest}).decode()
    contiguous = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    write_atomically(path, [safetensors.numpy.save(contiguous, metadata={METADATA_KEY: text})])
    return file_digest


def read(path: Path) -> tuple[Metadata, Tensors]:
    """Read and verify the file; the document includes its `digest`. Raises CheckpointError with the file and the reason."""
    data = read_bytes(path)
    document = _read_document(path, data)
    try:
        tensors: Tensors = safetensors.numpy.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a complete safetensors file ({error}); copy it again") from None
    try:
        intact = document.get("digest") == digest(document, tensors)
    except ValueError:  # numbers or text that `write` does not produce
        intact = False
    if not intact:
        raise CheckpointError(f"{path}: damaged, its content does not match its digest; copy it again")
    return document, tensors


def read_document(path: Path) -> Metadata:
    """Read the document and none of the tensors, without which its `digest` can't be verified. Raises CheckpointError."""
    try:
        with path.open("rb") as file:
            length = file.read(8)
            header = file.read(min(int.from_bytes(length, "little"), MAX_HEADER))
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror})") from None
    return _read_document(path, length + header)


def read_bytes(path: Path) -> bytes:
    """Return the content of a file. Raises CheckpointError with the file and the reason."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror})") from None


def _read_document(path: Path, data: bytes) -> Metadata:
    if data[:4] == b"PK\x03\x04" or data[:2] == b"\x80\x02":
        raise CheckpointError(
            f"{path}: a pickle (.pt, .pth); expected .safetensors, because pickles can run code and are not read"
        )
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise CheckpointError(f"{path}: not a complete safetensors file ({len(data)} bytes); copy it again")
    if length > MAX_HEADER:
        raise CheckpointError(f"{path}: the header has {length} bytes, expected at most {MAX_HEADER}")
    try:
        document = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][METADATA_KEY])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(
            f"{path}: a safetensors file without the metadata of this project; expected a checkpoint from `python -m training`"
        ) from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: the metadata is not a JSON object")
    return document
