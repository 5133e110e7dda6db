"""Tests of training.tracking.run_dir."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from core import __version__
from core.checkpoints.checkpoint import read_checkpoint
from tests.support.crash_save import save_epoch, write_two_epochs
from training.config import TrainConfig, resolve_config
from training.tracking.history import write_table
from training.tracking.run_dir import SELECTION_METRIC, Lineage, RunDir


def test_resume_files_are_ordered_by_epoch_number(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.resume.mkdir()
    for epoch in (9998, 9999, 10000):
        run_dir.save_resume(epoch, 0, {"epoch": epoch}, {})
    assert sorted(p.stem for p in run_dir.resume.iterdir()) == ["10000-000000", "9999-000000"]
    _, document, _ = run_dir.newest_resume() or (None, {}, {})
    assert document["epoch"] == 10000


def test_moved_run_is_found_at_default_path_of_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_dir = RunDir(Path("runs/ddunet"))
    run_dir.create(TrainConfig(model="ddunet", data="x", run="runs/x"), {}, [], Lineage())
    resume = TrainConfig(model="ddunet", resume=True)
    assert resolve_config(resume, {"model", "resume"}).run_dir == run_dir.path
    save_epoch(run_dir, 1)
    assert run_dir.can_resume
    assert resolve_config(resume, {"model", "resume"}).run_dir == run_dir.path


def test_truncate_relinks_best_and_last(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "r")
    write_two_epochs(run_dir)
    save_epoch(run_dir, 3)
    rows = [{"epoch": epoch, f"val_{SELECTION_METRIC}": score} for epoch, score in ((1, 0.3), (2, 0.3), (3, 0.9))]
    write_table(run_dir.history, rows, list(rows[0]))
    shutil.copy(run_dir.checkpoints / "epoch-0003.safetensors", run_dir.checkpoints / "epoch-0001.safetensors")
    run_dir.truncate_after(2)
    inodes = {path.name: path.stat().st_ino for path in run_dir.checkpoints.iterdir()}
    assert inodes["best.safetensors"] == inodes["epoch-0001.safetensors"]  # The first of two equal scores is the best.
    assert [row["epoch"] for row in run_dir.read_history()] == [1, 2]


def test_keep_does_not_count_later_epochs(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "r")
    write_two_epochs(run_dir)
    shutil.copy(run_dir.checkpoints / "epoch-0002.safetensors", run_dir.checkpoints / "epoch-0009.safetensors")
    save_epoch(run_dir, 3)  # keep=1
    assert sorted(p.stem for p in run_dir.checkpoints.glob("epoch-*")) == ["epoch-0003", "epoch-0009"]
    metadata = read_checkpoint(run_dir.checkpoints / "last.safetensors").metadata
    assert (metadata.epoch, metadata.code_version) == (3, __version__)


def test_history_gets_columns_of_a_renamed_data_directory(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    for epoch, name in ((1, "before"), (2, "after")):
        run_dir.append_history({"epoch": epoch, f"val_miou/{name}": 0.5})
    assert run_dir.read_history() == [
        {"epoch": 1, "val_miou/before": 0.5, "val_miou/after": None},
        {"epoch": 2, "val_miou/before": None, "val_miou/after": 0.5},
    ]
