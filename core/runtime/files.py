"""Writing a file so that a reader, or a crash at any moment, meets the old one whole or the new one whole."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from core.errors import InputError

NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)  # exFAT, network drives, mounted buckets
Stamp = tuple[int, int, int]  # a file's inode, bytes and time of its last change, of its rights too
TEMPORARY = ".*.tmp"  # what a crash may leave behind: `remove_temporaries` clears it away


def write_atomically(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write `chunks` to `path` through a temporary file beside it, fsync, rename and fsync of the folder.

    Raises OSError that names `path`, and what making the chunks raises; what stood there is then as it was. A failed
    fsync is not tried again: the kernel may have thrown the data away, and a second one would say that all is well.
    """
    temporary = temporary_beside(path)
    try:
        with _naming(path):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            for chunk in chunks:
                with _naming(path):
                    _write_all(descriptor, memoryview(chunk).cast("B"))
            with _naming(path):
                os.fsync(descriptor)
        finally:
            with _naming(path):
                os.close(descriptor)
        with _naming(path):
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let an OSError name the file that the user knows, not the temporary one."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write_all(descriptor: int, chunk: memoryview) -> None:
    while chunk:
        chunk = chunk[os.write(descriptor, chunk) :]  # one call takes 2 GiB at most


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, each so that it lasts through a power cut."""
    if folder.is_dir():
        return
    if folder.exists():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    with suppress(PermissionError):  # a folder that may be written to and not read
        sync_folder(folder.parent)


def files_below(folder: Path, around: frozenset[Path] = frozenset()) -> list[Path]:
    """All files in a folder and those below it, sorted; none where there is no folder.

    Linked folders are followed, but not to one that the way there has come through, or that lies around it (`around`).
    Raises InputError where a folder can't be read.
    """
    here = folder.resolve()
    if here in around or not here.is_dir():
        return []
    around |= {here, *here.parents}
    try:
        lists = [files_below(path, around) if path.is_dir() else [path] for path in folder.iterdir()]
    except OSError as error:
        raise InputError(f"{error.filename}: can't be read ({error.strerror})") from None
    return sorted(path for paths in lists for path in paths)


def link_atomically(target: Path, path: Path) -> None:
    """Make `path` a hard link to `target`, replacing what stood there in one step; a copy, where the file system has none."""
    temporary = temporary_beside(path)
    try:
        try:
            os.link(target, temporary)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            write_atomically(path, [target.read_bytes()])
            return
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # rename of two links to one file does nothing, by POSIX
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with _naming(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(*folders: Path) -> None:
    """Delete what writers that were killed left in these folders; only for whoever is the one writer there."""
    for folder in folders:
        for path in folder.glob(TEMPORARY):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def stamp(path: Path) -> Stamp | None:
    """What changes where a file is replaced or written to; None where there is none."""
    try:
        told = path.stat()
    except OSError:
        return None
    return told.st_ino, told.st_size, told.st_ctime_ns


def temporary_beside(path: Path) -> Path:
    """A free name for what is to become `path`; `remove_temporaries` knows it."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
