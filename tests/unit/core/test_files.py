"""Tests of core.runtime.files: directory listings with symbolic links, and detection of replaced files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from core.errors import InputError
from core.runtime.atomic import write_atomically
from core.runtime.files import file_version, list_files


def test_linked_directories_are_listed_once(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "file").touch()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "deep" / "back").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here" / "parent").symlink_to(tmp_path)
    assert list_files(tmp_path / "here") == [tmp_path / "here" / "linked" / "deep" / "file"]


def test_cycle_of_links_ends(tmp_path: Path) -> None:
    for name, other in ("ab", "ba"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
        (tmp_path / name / other).symlink_to(tmp_path / other)
    assert [str(path.relative_to(tmp_path)) for path in list_files(tmp_path / "a")] == ["a/b/file", "a/file"]


def test_unreadable_directory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_eacces(directory: Path) -> None:  # Root can read any directory, so permissions would have no effect.
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(directory))

    monkeypatch.setattr(Path, "iterdir", raise_eacces)
    with pytest.raises(InputError, match=f"{tmp_path}: can't be read \\(Permission denied\\)"):
        list_files(tmp_path)


def test_file_version_changes_when_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert file_version(path) is None
    write_atomically(path, [b"same"])
    first = file_version(path)
    assert first is not None and file_version(path) == first
    write_atomically(path, [b"same"])
    assert file_version(path) not in (first, None)
