"""Atomic replacement of files and directories: a reader, or a crash at any moment, finds the complete old or new one."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger("core")
# exFAT, network drives and mounted buckets can't make hard links.
HARDLINK_UNSUPPORTED = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of <fcntl.h> and <linux/fs.h>
TMP_GLOB = ".*.tmp"  # matches the names that `temp_path_for` returns; a crash can leave such files behind


def write_atomically(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Replace `path` with the concatenated `chunks`: write a temporary file, fsync, rename, and fsync the directory.

    A failed fsync is not retried: the kernel may have dropped the data, and a second fsync would report success. If that of
    the directory fails, a warning is logged: the new file is in place.

    Raises:
        OSError: Writing failed. Its `filename` is `path`, never the temporary file.
        Any exception that iterating over `chunks` raises. In both cases the old file is unchanged.
    """
    temporary = temp_path_for(path)
    try:
        with _os_errors_name(path):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            for chunk in chunks:
                with _os_errors_name(path):
                    _write_all(descriptor, memoryview(chunk).cast("B"))
            with _os_errors_name(path):
                os.fsync(descriptor)
        finally:
            with _os_errors_name(path):
                os.close(descriptor)
        with _os_errors_name(path):
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_rename(path)


def link_atomically(target: Path, path: Path) -> None:
    """Replace `path` with a hard link to `target`, or with a copy if the file system has no hard links."""
    temporary = temp_path_for(path)
    try:
        try:
            os.link(target, temporary)
        except OSError as error:
            if error.errno not in HARDLINK_UNSUPPORTED:
                raise
            write_atomically(path, [target.read_bytes()])
            return
        temporary.replace(path)
    finally:
        # If both names already link to the same file, POSIX rename does nothing and leaves the temporary name.
        temporary.unlink(missing_ok=True)
    _sync_rename(path)


def replace_directory(new: Path, path: Path) -> None:
    """Rename the directory `new` to `path`, in the same parent, and delete the directory that was there.

    Both are exchanged in one step. If the kernel or the file system can't do that, `path` is missing for a moment.

    Raises:
        OSError: Renaming failed; the old directory is unchanged.
    """
    old = temp_path_for(path)
    if not path.exists():
        new.rename(path)
    elif _exchange(new, path):
        old = new
    else:
        path.rename(old)
        try:
            new.rename(path)
        except OSError:
            old.rename(path)
            raise
    _sync_rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two paths in one step; return whether the kernel, the file system and the C library support it."""
    try:
        code: int = ctypes.CDLL(None).renameat2(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), RENAME_EXCHANGE)
    except (OSError, AttributeError):  # not Linux, or another C library than glibc
        return False
    return code == 0


def makedirs_durable(directory: Path) -> None:
    """Create a directory and its missing parents, and fsync each parent so that they survive a power failure.

    Several threads may create the same directory at once.
    """
    if directory.is_dir():
        return
    try:
        makedirs_durable(directory.parent)
        directory.mkdir(exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory)) from None
    with suppress(PermissionError):  # the parent can be writable without being readable
        fsync_dir(directory.parent)


def fsync_dir(directory: Path) -> None:
    """Flush a directory to disk so that a rename in it survives a power failure."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with _os_errors_name(directory):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_rename(path: Path) -> None:
    """Flush a rename to `path` to disk. A failure is only a warning, because the new file is in place."""
    try:
        fsync_dir(path.parent)
    except OSError as error:
        log.warning("%s: written, but a power failure could undo it: can't flush its directory (%s)", path, error.strerror)


def temp_path_for(path: Path) -> Path:
    """Return an unused temporary path in the directory of `path`, matched by `TMP_GLOB`."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def remove_temporaries(*directories: Path) -> None:
    """Delete the temporary files that killed writers left in `directories`.

    Call it only while the caller is the only writer: it would also delete the files of a running one.
    """
    for directory in directories:
        for path in directory.glob(TMP_GLOB):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@contextmanager
def _os_errors_name(path: Path) -> Iterator[None]:
    """Re-raise an OSError with the path that the user knows instead of the temporary one."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write_all(descriptor: int, chunk: memoryview) -> None:
    while chunk:
        chunk = chunk[os.write(descriptor, chunk) :]  # one call writes at most 2 GiB
