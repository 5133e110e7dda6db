"""Reading the file system: list a directory tree, and detect that a file was replaced."""

from __future__ import annotations

from pathlib import Path

from core.errors import InputError

FileVersion = tuple[int, int, int]  # inode, size in bytes, and time of the last change (ctime) in nanoseconds


def list_files(directory: Path, visited: frozenset[Path] = frozenset()) -> list[Path]:
    """Return all files below `directory`, sorted; an empty list if it does not exist.

    Hidden files and directories and `__MACOSX` are skipped: archives made on macOS have `._NAME` beside each file NAME.
    Symbolic links to directories are followed, except to a directory in `visited` (those on the way here and their
    parents), so that a cycle of links ends.

    Raises:
        InputError: A directory can't be read.
    """
    resolved = directory.resolve()
    if resolved in visited or not resolved.is_dir():
        return []
    visited |= {resolved, *resolved.parents}
    try:
        paths = [path for path in directory.iterdir() if not path.name.startswith(".") and path.name != "__MACOSX"]
        nested = [list_files(path, visited) if path.is_dir() else [path] for path in paths]
    except OSError as error:
        raise InputError(f"{error.filename}: can't be read ({error.strerror})") from None
    return sorted(path for files in nested for path in files)


def file_version(path: Path) -> FileVersion | None:
    """Return a value that changes whenever the file is replaced or modified; None if the file can't be accessed."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_ctime_ns
