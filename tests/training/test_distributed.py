"""Several processes on the CPU: the same counts to the unit, and a run that they share."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.checkpoint import read_checkpoint
from training.distributed import launch, processes_to_launch
from training.synthesize import write_scene

ROOT = Path(__file__).parents[2]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


def torchrun(processes: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    # `--`: torchrun takes --run for an abbreviation of an option of its own
    command = [*TORCHRUN, str(processes), "-m", "--", "training", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Data sets of 101 images and of one."""
    folders = {}
    for count in (101, 1):
        folders[count] = tmp_path_factory.mktemp(f"images{count}")
        for index in range(count):
            write_scene(folders[count], "val", index, (32, 48), seed=1)
    return folders


@pytest.mark.parametrize("images", [101, 1])
def test_two_processes_count_what_one_counts(many: dict[int, Path], checkpoint: Path, tmp_path: Path, images: int, cli) -> None:
    alone, together = tmp_path / "alone.json", tmp_path / "together.json"
    assert cli("evaluate", checkpoint, "--data", many[images], "--json", alone)[0] == 0
    done = torchrun(2, "evaluate", checkpoint, "--data", many[images], "--json", together)
    assert done.returncode == 0, done.stderr
    first, second = json.loads(alone.read_text()), json.loads(together.read_text())
    assert first["confusion"] == second["confusion"]
    assert (first["scores"], first["intervals"]) == (second["scores"], second["intervals"])
    assert np.sum(first["confusion"]) > 0


@pytest.fixture(scope="module")
def shared_run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("shared") / "run"
    flags = ("--width", 2, "--size", 32, 64, "--batch-size", 3, "--workers", 0, "--epochs", 2, "--run", folder)
    done = torchrun(2, "train", "--model", "ddunet", "--data", scenes, *flags)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_two_processes_train_one_run(shared_run: tuple[Path, str]) -> None:
    folder, out = shared_run
    with (folder / "history.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
    assert "each process normalises its own share" in out


def test_what_was_scored_is_what_was_saved(shared_run: tuple[Path, str], scenes: Path, tmp_path: Path, cli) -> None:
    """Rank 0's batch norm statistics are in the scores and in the file: evaluated alone, it scores the same."""
    last = shared_run[0] / "checkpoints" / "last.safetensors"
    assert cli("evaluate", last, "--data", scenes, "--json", tmp_path / "r.json")[0] == 0
    alone = json.loads((tmp_path / "r.json").read_text())["scores"]["macro_iou"]
    assert alone == read_checkpoint(last).card.scores["macro_iou"]


def test_one_process_s_wrong_input_ends_all(tmp_path: Path) -> None:
    done = torchrun(2, "train", "--model", "ddunet", "--data", tmp_path / "none", "--run", tmp_path / "r")
    assert done.returncode != 0 and "no such data folder" in done.stderr


def test_the_command_launches_itself(checkpoint: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    report = tmp_path / "r.json"
    assert launch(2, ["evaluate", str(checkpoint), "--data", str(scenes), "--json", str(report)]) == 0
    assert json.loads(report.read_text())["data"]["images"] == 5


def test_a_launched_process_s_exit_code_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert launch(2, ["evaluate", str(tmp_path / "none.safetensors"), "--data", "synthetic"]) == 2


@pytest.mark.parametrize(("gpus", "expected"), [(None, 4), (2, 2), (9, 4), (0, 1)])
def test_one_process_for_each_gpu(monkeypatch: pytest.MonkeyPatch, gpus: int | None, expected: int) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert processes_to_launch(gpus) == expected


def test_a_launcher_that_is_there_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setitem(os.environ, "RANK", "0")
    assert processes_to_launch(None) == 1
