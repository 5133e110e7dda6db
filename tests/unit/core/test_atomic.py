"""Tests of core.runtime.atomic: after a kill or an I/O error there is the complete old or new file and nothing else."""

from __future__ import annotations

import errno
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.runtime.atomic import link_atomically, makedirs_durable, remove_temporaries, replace_directory, write_atomically
from tests.support.syscalls import SyscallHook, run_killed_at


def test_write_killed_at_any_system_call_leaves_complete_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = set()
    for call in range(1, 100):
        write_atomically(path, [b"old"])
        code = run_killed_at(call, lambda: write_atomically(path, [b"new ", b"file"]))
        contents.add(path.read_bytes())
        remove_temporaries(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["file"]
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert contents == {b"old", b"new file"} and call > 8


def test_link_killed_at_any_system_call_points_to_a_file(tmp_path: Path) -> None:
    old, new, link = tmp_path / "old", tmp_path / "new", tmp_path / "link"
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    for call in range(1, 100):
        link_atomically(old, link)
        code = run_killed_at(call, lambda: link_atomically(new, link))
        assert link.samefile(old) or link.samefile(new)
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert call > 4 and link.samefile(new)


def test_link_is_a_copy_without_hard_link_support(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_eperm(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "link").write_bytes(b"old")
    monkeypatch.setattr(os, "link", raise_eperm)
    link_atomically(tmp_path / "new", tmp_path / "link")
    assert (tmp_path / "link").read_bytes() == b"new" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize("name", ["open", "write", "fsync", "rename"])
def test_failed_write_keeps_old_file_and_is_not_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    path = tmp_path / "file"
    write_atomically(path, [b"old"])

    def fail(_: str) -> None:
        raise OSError(number, os.strerror(number))

    names = ("rename", "replace") if name == "rename" else (name,)
    with monkeypatch.context() as patch:
        hook = SyscallHook(patch, 1, fail, names)
        with pytest.raises(OSError, match=os.strerror(number)) as error:
            write_atomically(path, [b"new"])
        assert hook.count == 1, "the failed call was retried"
    assert error.value.filename == str(path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and path.read_bytes() == b"old"


def test_failed_sync_of_directory_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        SyscallHook(patch, 2, fail, ("fsync",))  # the first is that of the file
        write_atomically(tmp_path / "file", [b"new"])
    assert (tmp_path / "file").read_bytes() == b"new"
    assert f"{tmp_path / 'file'}: written, but a power failure could undo it" in caplog.text


def make_directory(path: Path, content: bytes) -> Path:
    path.mkdir()
    (path / "file").write_bytes(content)
    return path


def test_replace_directory_killed_at_any_system_call_leaves_complete_directory(tmp_path: Path) -> None:
    contents = set()
    path = make_directory(tmp_path / "directory", b"old")
    for call in range(1, 100):
        new = make_directory(tmp_path / ".new.tmp", b"new")
        code = run_killed_at(call, lambda new=new: replace_directory(new, path))
        contents.add((path / "file").read_bytes())
        remove_temporaries(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["directory"]
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert contents == {b"new"} and call > 2


def test_directory_is_replaced_without_support_for_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.runtime.atomic._exchange", lambda *_: False)
    path = make_directory(tmp_path / "directory", b"old")
    replace_directory(make_directory(tmp_path / ".new.tmp", b"new"), path)
    assert (path / "file").read_bytes() == b"new" and [p.name for p in tmp_path.iterdir()] == ["directory"]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    write_atomically(tmp_path / "file", [b"more than three bytes", b"", b"!"])
    assert (tmp_path / "file").read_bytes() == b"more than three bytes!"


def test_makedirs_durable_syncs_parents_of_new_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("core.runtime.atomic.fsync_dir", synced.append)
    makedirs_durable(tmp_path / "a" / "b" / "c")
    makedirs_durable(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b" / "c").is_dir() and synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]


def test_several_threads_create_the_same_directory(tmp_path: Path) -> None:
    for turn in range(50):
        start = threading.Barrier(8)

        def create(turn: int = turn, start: threading.Barrier = start) -> None:
            start.wait()
            makedirs_durable(tmp_path / str(turn) / "a" / "b")

        with ThreadPoolExecutor(8) as pool:
            for future in [pool.submit(create) for _ in range(8)]:
                future.result()


def test_file_in_place_of_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file"):
        makedirs_durable(tmp_path / "file" / "a")
