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
import torch

from core.checkpoints.checkpoint import read_checkpoint
from core.models import build_model
from training.commands.synthesize import write_scene
from training.distributed.context import World
from training.distributed.launcher import launch, processes_to_launch
from training.engine.network import place_network

ROOT = Path(__file__).parents[3]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


def torchrun(processes: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    # `--`: torchrun takes --run for an abbreviation of an option of its own
    command = [*TORCHRUN, str(processes), "-m", "--", "training", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def counts(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, np.ndarray]]:
    """By number of processes: the counts of evaluations of 1, 7 and 101 images in batches of 1 and 8."""
    folder = tmp_path_factory.mktemp("counts")
    images = [folder / str(count) for count in (1, 7, 101)]
    for path in images:
        for index in range(int(path.name)):
            write_scene(path, "val", index, (32, 48), seed=1)
    program, found = str(Path(__file__).with_name("count_of_ranks.py")), {}
    for ranks in (1, 2, 3):
        command = [*TORCHRUN, str(ranks), program, str(folder / f"{ranks}.npz"), str(checkpoint), *map(str, images)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=300, check=True)
        found[ranks] = dict(np.load(folder / f"{ranks}.npz"))
    return found


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("images", [1, 7, 101])
def test_every_number_of_processes_and_batch_size_counts_the_same(
    counts: dict[int, dict[str, np.ndarray]], images: int, batch: int, ranks: int
) -> None:
    expected, found = (counts[r][f"{images} {b}"] for r, b in ((1, 1), (ranks, batch)))
    assert np.array_equal(found, expected) and found.sum() > 0
    assert np.array_equal(counts[ranks][f"{images} {batch} each"], counts[1][f"{images} 1 each"])


def test_two_processes_tell_the_report_of_one(checkpoint: Path, scenes: Path, tmp_path: Path, cli) -> None:
    alone, together = tmp_path / "alone.json", tmp_path / "together.json"
    assert cli("evaluate", checkpoint, "--data", scenes, "--json", alone)[0] == 0
    done = torchrun(2, "evaluate", checkpoint, "--data", scenes, "--json", together)
    assert done.returncode == 0, done.stderr
    first, second = json.loads(alone.read_text()), json.loads(together.read_text())
    for key in ("confusion", "scores", "classes", "intervals", "data"):
        assert first[key] == second[key]


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


CASES = ("ce False 1", "ce True 3", "ce False 2", "dice False 1", "ce+dice True 1")  # loss, weighted by class, parts


@pytest.fixture(scope="module")
def gradients(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, np.ndarray]]:
    """By number of processes: the gradient of every weight in each case, and the sums of the loss."""
    folder, program, found = tmp_path_factory.mktemp("gradients"), str(Path(__file__).with_name("gradient_of_ranks.py")), {}
    for ranks in (1, 2):
        command = [*TORCHRUN, str(ranks), program, str(folder / f"{ranks}.npz"), *CASES]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=120, check=True)
        found[ranks] = dict(np.load(folder / f"{ranks}.npz"))
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_of_two_ranks_and_parts_is_that_of_one(gradients: dict[int, dict[str, np.ndarray]], case: str) -> None:
    """The loss is the mean over the valid pixels of all ranks and parts, however samples and void are spread."""
    names = [name for name in gradients[1] if name.startswith(f"{case} ")]
    assert len(names) == 5
    for name in names:
        assert np.allclose(gradients[1][name], gradients[2][name], rtol=1e-5, atol=1e-7) and gradients[1][name].any()


def test_train_launches_a_process_for_each_gpu(scenes: Path, tmp_path: Path, cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("training.commands.train.processes_to_launch", lambda gpus: 2)
    flags = ("--width", 2, "--size", 32, 64, "--batch-size", 2, "--workers", 0, "--epochs", 1, "--run", tmp_path / "r")
    assert cli("train", "--model", "ddunet", "--data", scenes, *flags)[0] == 0
    assert read_checkpoint(tmp_path / "r" / "checkpoints" / "last.safetensors").card.epoch == 1
    code, _, err = cli("train", "--model", "ddunet", "--data", tmp_path / "none", *flags[:-1], tmp_path / "r2")
    assert code == 2 and "no such data folder" in err  # told by the parent, before any process is launched


def test_batch_norm_is_taken_over_all_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, **_: self)  # there is no GPU to go to
    network = place_network(build_model("r2unet", width=2), World(rank=0, ranks=2, device=torch.device("cuda", 0)))
    kinds = {type(m).__name__ for m in network.modules() if "BatchNorm" in type(m).__name__}
    assert kinds == {"SyncBatchNorm"}


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
