"""Checks of output paths, made before the work begins, and the output of JSON documents."""

from __future__ import annotations

import os
from pathlib import Path

from core.errors import InputError
from core.runtime.atomic import write_atomically

STDOUT = "-"  # as the value of --json or --out


def check_output_dir(path: Path, flag: str) -> None:
    """Raise InputError if `path` can't be a writable directory: a file is in the way, or permission is missing."""
    existing = next((p for p in (path, *path.absolute().parents) if p.exists()), Path("/"))
    if not existing.is_dir():
        raise InputError(f"{flag}: {existing} is a file; expected a directory, or a path at which one can be created")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{flag}: no permission to write to {existing}; choose another directory")


def check_output_file(path: Path, flag: str) -> None:
    """Raise InputError if `path` can't be written as a file."""
    if path.is_dir():
        raise InputError(f"{flag}: {path} is a directory; expected a file name")
    if not path.parent.is_dir():
        raise InputError(f"{flag}: {path.parent}: no such directory; create it first")
    check_output_dir(path.parent, flag)


def check_json_output(target: str | None) -> None:
    """Raise InputError if the value of --json can't be written; `-` is standard output."""
    if target is not None and target != STDOUT:
        check_output_file(Path(target), "--json")


def write_json(target: str, document: str) -> None:
    """Write a JSON document to a file, or print it if `target` is `-`."""
    if target == STDOUT:
        print(document, flush=True)
    else:
        write_atomically(Path(target), [document.encode() + b"\n"])
