"""Tests of training.tracking.lock."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import InputError
from training.tracking import lock


def test_long_wait_for_lock_is_reported_once_before_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lock, "WAIT_S", 0.0)
    message = r"is being written by process \d+ on"
    with lock.lock_run_dir(tmp_path), pytest.raises(InputError, match=message), lock.lock_run_dir(tmp_path, wait_s=0.5):
        raise AssertionError
    assert capsys.readouterr().out.count(f"{tmp_path}: waiting for process") == 1
