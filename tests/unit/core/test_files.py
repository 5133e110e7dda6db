"""Atomic writing under kills, full disks and broken ones: the old file whole or the new one whole, and nothing else."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import InputError
from core.runtime.files import files_below, link_atomically, remove_temporaries, write_atomically

CALLS = ("open", "write", "fsync", "close", "rename", "replace", "link", "unlink")


class CountedCalls:
    """Passes the system calls of `os` on and does something at the n-th of them (from 1)."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, act: Callable[[str], None], names: tuple[str, ...] = CALLS) -> None:
        self.seen = 0
        for name in names:
            patch.setattr(os, name, self._wrap(name, getattr(os, name), at, act))

    def _wrap(self, name: str, original: Callable[..., object], at: int, act: Callable[[str], None]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            self.seen += 1
            if self.seen == at:
                act(name)
            return original(*arguments, **options)

        return call


def in_child(work: Callable[[], None]) -> int:
    """Run in a forked process; its return code, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_at(call: int, work: Callable[[], None]) -> int:
    """Run in a process that dies just before its n-th system call on files."""

    def child() -> None:
        with pytest.MonkeyPatch.context() as patch:
            CountedCalls(patch, call, lambda _: os.kill(os.getpid(), signal.SIGKILL))
            work()

    return in_child(child)


def test_a_write_killed_at_each_system_call_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    seen = set()
    for call in range(1, 100):
        write_atomically(path, [b"old"])
        code = killed_at(call, lambda: write_atomically(path, [b"new ", b"file"]))
        seen.add(path.read_bytes())
        remove_temporaries(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["file"]
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert seen == {b"old", b"new file"} and call > 8


def test_a_link_killed_at_each_system_call_points_to_the_old_or_the_new_file(tmp_path: Path) -> None:
    old, new, link = tmp_path / "old", tmp_path / "new", tmp_path / "link"
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    for call in range(1, 100):
        link_atomically(old, link)
        code = killed_at(call, lambda: link_atomically(new, link))
        assert link.samefile(old) or link.samefile(new)
        if code == 0:
            break
    assert call > 4 and link.samefile(new)


def test_where_the_file_system_has_no_links_a_copy_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "link").write_bytes(b"old")
    monkeypatch.setattr(os, "link", refuse)
    link_atomically(tmp_path / "new", tmp_path / "link")
    assert (tmp_path / "link").read_bytes() == b"new" and len(list(tmp_path.iterdir())) == 2


def test_files_in_linked_folders_are_found_once(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "file").touch()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "deep" / "back").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here" / "around").symlink_to(tmp_path)
    assert files_below(tmp_path / "here") == [tmp_path / "here" / "linked" / "deep" / "file"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:  # as the system does, but for root
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match=f"{tmp_path}: can't be read \\(Permission denied\\)"):
        files_below(tmp_path)


def test_links_to_each_other_come_to_an_end(tmp_path: Path) -> None:
    for name, other in ("ab", "ba"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
        (tmp_path / name / other).symlink_to(tmp_path / other)
    assert [str(path.relative_to(tmp_path)) for path in files_below(tmp_path / "a")] == ["a/b/file", "a/file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("name", ["open", "write", "fsync", "rename"])
def test_a_disk_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    path = tmp_path / "file"
    write_atomically(path, [b"old"])

    def fail(_: str) -> None:
        raise OSError(number, os.strerror(number))

    names = ("rename", "replace") if name == "rename" else (name,)
    with monkeypatch.context() as patch:
        calls = CountedCalls(patch, 1, fail, names)
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            write_atomically(path, [b"new"])
        assert calls.seen == 1, "what failed was tried again"
    assert caught.value.filename == str(path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and path.read_bytes() == b"old"


def test_a_write_in_pieces_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    write_atomically(tmp_path / "file", [b"more than three bytes", b"", b"!"])
    assert (tmp_path / "file").read_bytes() == b"more than three bytes!"
