"""Tensors and one JSON document in a safetensors file, written atomically and checked by a digest of its own.

safetensors notices damage to its layout only; a flipped bit in a weight or in the metadata loads silently. So the
document carries a SHA-256 over its own canonical JSON and over each tensor's name, dtype, shape and bytes.
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
from core.runtime.files import write_atomically

Document = dict[str, Any]
Tensors = dict[str, npt.NDArray[Any]]

KEY = "segment"  # the one entry of the safetensors metadata
MAX_HEADER = 4 << 20  # bytes; a header of 56 MB took seconds to parse, ours have some 50 KB


def digest(document: Document, tensors: Tensors) -> str:
    """SHA-256 in hex of the document (its own `digest` left out) and of every tensor."""
    content = {key: value for key, value in document.items() if key != "digest"}
    state = hashlib.sha256(_canonical(content))
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        # the shape is the tensor's own: ascontiguousarray makes a scalar one-dimensional
        state.update(_canonical([name, array.dtype.str, list(tensors[name].shape)]))
        state.update(array.reshape(-1).view(np.uint8).data)
    return state.hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def write(path: Path, document: Document, tensors: Tensors) -> str:
    """Write the file atomically and return its digest."""
    own = digest(document, tensors)
    text = _canonical({**document, "digest": own}).decode()
    contiguous = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    write_atomically(path, [safetensors.numpy.save(contiguous, metadata={KEY: text})])
    return own


def read(path: Path) -> tuple[Document, Tensors]:
    """Read and check the file. Raises CheckpointError that names the file and the reason."""
    data = read_bytes(path)
    document = _read_document(path, data)
    try:
        tensors: Tensors = safetensors.numpy.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from None
    try:
        whole = document.get("digest") == digest(document, tensors)
    except ValueError:  # numbers or text that this program does not write
        whole = False
    if not whole:
        raise CheckpointError(f"{path}: damaged: its content does not match its digest; copy it again")
    return document, tensors


def read_bytes(path: Path) -> bytes:
    """The file's content. Raises CheckpointError that names the file and the reason."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror})") from None


def _read_document(path: Path, data: bytes) -> Document:
    if data[:4] == b"PK\x03\x04" or data[:2] == b"\x80\x02":
        raise CheckpointError(f"{path}: a pickle (.pt, .pth); expected .safetensors: pickles can run code and are not read")
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise CheckpointError(f"{path}: not a whole safetensors file ({len(data)} bytes)")
    if length > MAX_HEADER:
        raise CheckpointError(f"{path}: its header has {length} bytes; at most {MAX_HEADER} are read")
    try:
        document = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][KEY])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"{path}: a safetensors file, but not one that this project wrote") from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: its metadata is not a JSON object")
    return document
