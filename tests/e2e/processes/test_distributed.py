"""Tests of evaluation and training with several processes on the CPU."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.checkpoints.checkpoint import read_checkpoint
from tests.support.cli import Cli
from tests.support.paths import ROOT
from training.distributed.launcher import launch
from training.synthetic.dataset import write_scene

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


def torchrun(processes: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `python -m training ARGUMENTS` in several processes."""
    # Without `--`, torchrun takes --run for an abbreviation of one of its options.
    command = [*TORCHRUN, str(processes), "-m", "--", "training", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def run_program(world_size: int, module: str, output: Path, *arguments: object) -> dict[str, np.ndarray]:
    """Run a module of tests.support in several processes, and return the arrays that rank 0 saves to `output`."""
    command = [*TORCHRUN, world_size, "-m", f"tests.support.{module}", output, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*map(str, command)], cwd=ROOT, env=environment, capture_output=True, timeout=300, check=True)
    return dict(np.load(output))


@pytest.fixture(scope="module")
def confusion(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, np.ndarray]]:
    """Confusion matrices by world size, for 1, 7 and 101 images in batches of 1 and 8."""
    directory = tmp_path_factory.mktemp("confusion")
    datasets = [directory / str(count) for count in (1, 7, 101)]
    for dataset in datasets:
        for index in range(int(dataset.name)):
            write_scene(dataset, "val", index, (32, 48), seed=1)
    return {n: run_program(n, "distributed_confusion", directory / f"{n}.npz", checkpoint, *datasets) for n in (1, 2, 3)}


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("images", [1, 7, 101])
def test_confusion_is_independent_of_world_size_and_batch_size(
    confusion: dict[int, dict[str, np.ndarray]], images: int, batch_size: int, world_size: int
) -> None:
    expected, actual = confusion[1], confusion[world_size]
    assert np.array_equal(actual[f"{images} {batch_size}"], expected[f"{images} 1"]) and expected[f"{images} 1"].sum() > 0
    assert np.array_equal(actual[f"{images} {batch_size} per image"], expected[f"{images} 1 per image"])


def test_two_processes_report_same_scores_as_one(checkpoint: Path, scenes: Path, tmp_path: Path, cli: Cli) -> None:
    single_path, distributed_path = tmp_path / "single.json", tmp_path / "distributed.json"
    assert cli("evaluate", checkpoint, "--data", scenes, "--json", single_path)[0] == 0
    completed = torchrun(2, "evaluate", checkpoint, "--data", scenes, "--json", distributed_path)
    assert completed.returncode == 0, completed.stderr
    single, distributed = json.loads(single_path.read_text()), json.loads(distributed_path.read_text())
    for key in ("confusion", "scores", "classes", "intervals", "data"):
        assert single[key] == distributed[key]


def test_unusable_samples_of_all_ranks_are_reported_once(checkpoint: Path, scenes: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(scenes, tmp_path / "damaged"))
    images = sorted((damaged / "leftImg8bit" / "val").rglob("*.png"))[1:3]  # one of each rank's shard
    for image in images:
        image.write_bytes(b"nothing")
    completed = torchrun(2, "evaluate", checkpoint, "--data", damaged)
    assert completed.returncode != 0 and completed.stderr.count("2 of the 5 samples of val can't be used") == 1
    assert str(images[0]) in completed.stderr and str(images[1]) in completed.stderr


@pytest.fixture(scope="module")
def distributed_run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The directory of a run of two processes, and its standard output."""
    run_dir = tmp_path_factory.mktemp("distributed") / "run"
    flags = ("--width", 2, "--size", 32, 64, "--batch-size", 3, "--workers", 0, "--epochs", 2, "--run", run_dir)
    completed = torchrun(2, "train", "--model", "ddunet", "--data", scenes, *flags)
    assert completed.returncode == 0, completed.stderr
    return run_dir, completed.stdout


def test_two_processes_write_one_run(distributed_run: tuple[Path, str]) -> None:
    run_dir, out = distributed_run
    with (run_dir / "history.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
    assert "computed per process, not synchronized" in out


def test_saved_checkpoint_has_logged_score(distributed_run: tuple[Path, str], scenes: Path, tmp_path: Path, cli: Cli) -> None:
    """The scores and the checkpoint both use the batch norm statistics of rank 0, so one process gets the same score."""
    last = distributed_run[0] / "checkpoints" / "last.safetensors"
    assert cli("evaluate", last, "--data", scenes, "--json", tmp_path / "r.json")[0] == 0
    miou = json.loads((tmp_path / "r.json").read_text())["scores"]["miou"]
    assert miou == read_checkpoint(last).metadata.scores["miou"]


CASES = ("ce False 1", "ce True 3", "ce False 2", "dice False 1", "ce+dice True 1")  # loss, class weights, micro-batches


@pytest.fixture(scope="module")
def gradients(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, np.ndarray]]:
    """Gradients of all weights and sums of the loss in each case, by world size."""
    directory = tmp_path_factory.mktemp("gradients")
    return {n: run_program(n, "distributed_gradients", directory / f"{n}.npz", *CASES) for n in (1, 2)}


@pytest.mark.parametrize("case", CASES)
def test_gradient_is_independent_of_world_size_and_micro_batches(
    gradients: dict[int, dict[str, np.ndarray]], case: str
) -> None:
    """The loss is the mean over the valid pixels of all ranks and micro-batches, however void pixels are distributed."""
    names = [name for name in gradients[1] if name.startswith(f"{case} ")]
    assert len(names) == 5
    for name in names:
        assert np.allclose(gradients[1][name], gradients[2][name], rtol=1e-5, atol=1e-7) and gradients[1][name].any()


def test_train_launches_one_process_per_gpu(scenes: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("training.engine.job.processes_to_launch", lambda gpus: 2)
    flags = ("--width", 2, "--size", 32, 64, "--batch-size", 2, "--workers", 0, "--epochs", 1, "--run", tmp_path / "r")
    assert cli("train", "--model", "ddunet", "--data", scenes, *flags)[0] == 0
    assert read_checkpoint(tmp_path / "r" / "checkpoints" / "last.safetensors").metadata.epoch == 1
    code, _, err = cli("train", "--model", "ddunet", "--data", tmp_path / "none", *flags[:-1], tmp_path / "r2")
    assert code == 2 and "no such data directory" in err  # The parent reports it before it launches processes.


def test_usage_error_ends_all_processes(tmp_path: Path) -> None:
    completed = torchrun(2, "train", "--model", "ddunet", "--data", tmp_path / "none", "--run", tmp_path / "r")
    assert completed.returncode != 0 and "no such data directory" in completed.stderr


def test_launch_runs_command(checkpoint: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    report = tmp_path / "r.json"
    assert launch(2, ["evaluate", str(checkpoint), "--data", str(scenes), "--json", str(report)]) == 0
    assert json.loads(report.read_text())["data"]["images"] == 5


def test_launch_returns_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert launch(2, ["evaluate", str(tmp_path / "none.safetensors"), "--data", "synthetic"]) == 2
