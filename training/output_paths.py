"""Checks of where a command is told to write, made before the work and not after it."""

from __future__ import annotations

import os
from pathlib import Path

from core.errors import InputError


def require_folder(path: Path, flag: str) -> None:
    """Raise InputError where `path` can't be a folder to write to: a file is in the way, or no permission."""
    standing = next((p for p in (path, *path.absolute().parents) if p.exists()), Path("/"))
    if not standing.is_dir():
        raise InputError(f"{flag}: {standing} is a file; expected a folder, or a path where one can be made")
    if not os.access(standing, os.W_OK | os.X_OK):
        raise InputError(f"{flag}: no permission to write to {standing}; choose another folder")


def require_file(path: Path, flag: str) -> None:
    """Raise InputError where `path` can't be written as a file."""
    if path.is_dir():
        raise InputError(f"{flag}: {path} is a folder; expected the name of a file")
    if not path.parent.is_dir():
        raise InputError(f"{flag}: {path.parent}: no such folder; make it first")
    require_folder(path.parent, flag)
