"""Tests of `python -m training train --data A B`: what a run with several data directories writes, and how it is resumed."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import cv2
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from core.checkpoints.checkpoint import read_checkpoint
from core.data.datasets import open_dataset
from core.data.labels import CITYSCAPES
from tests.support.cli import Cli, usage_error
from tests.support.runs import read_history
from training.__main__ import main
from training.synthetic.scenes import street_scene

TINY = ("--model", "ddunet", "--width", 2, "--size", 32, 64, "--batch-size", 2, "--workers", 0)
NAMES = ("Sky", "road", "car")  # of `other`: other names, ids and colors than in Cityscapes


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four training and two validation scenes in the plain layout, with three of the classes of Cityscapes."""
    directory = tmp_path_factory.mktemp("other") / "other"
    ids = [CITYSCAPES.ids[CITYSCAPES.names.index(name.lower())] for name in NAMES]
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "labels"):
            (directory / kind / split).mkdir(parents=True)
        for index in range(count):
            rgb, label_ids = street_scene(np.random.default_rng((1, count, index)), 64, 96)
            labels = np.full(label_ids.shape, 255, np.uint8)
            for k, label_id in enumerate(ids):
                labels[label_ids == label_id] = k
            cv2.imwrite(str(directory / "images" / split / f"{index}.png"), rgb[..., ::-1])
            cv2.imwrite(str(directory / "labels" / split / f"{index}.png"), labels)
    classes = [{"name": name, "color": [k, k, k + 1]} for k, name in enumerate(NAMES)]
    (directory / "classes.json").write_text(json.dumps({"classes": classes}))
    return directory


@pytest.fixture(scope="module")
def joint_run_and_output(scenes: Path, other: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run of two epochs on `scenes` and `other`, which tests must not change, and what it printed."""
    run_dir, output = tmp_path_factory.mktemp("runs") / "joint", io.StringIO()
    with redirect_stdout(output):
        assert main([str(a) for a in ("train", "--data", scenes, other, "--run", run_dir, *TINY, "--epochs", 2)]) == 0
    return run_dir, output.getvalue()


@pytest.fixture
def joint_run(joint_run_and_output: tuple[Path, str]) -> Path:
    """The run directory of `joint_run_and_output`."""
    return joint_run_and_output[0]


def test_history_has_scores_of_each_dataset(joint_run: Path, scenes: Path, tmp_path: Path, cli: Cli) -> None:
    report = tmp_path / "report.json"
    assert cli("evaluate", joint_run / "checkpoints" / "last.safetensors", "--data", scenes, "--json", report)[0] == 0
    row, scores = read_history(joint_run)[-1], json.loads(report.read_text())["scores"]
    for name in ("miou", "miou_present", "pixel_accuracy"):
        assert float(row[f"val_{name}/{scenes.name}"]) == pytest.approx(scores[name])
        assert f"val_{name}/other" in row


def test_pixel_accuracy_is_that_of_all_datasets_together(joint_run: Path, scenes: Path, other: Path) -> None:
    row = read_history(joint_run)[-1]
    labels = {directory.name: open_dataset(directory, "val") for directory in (scenes, other)}
    pixels = {name: sum(int((dataset[n][1] != 255).sum()) for n in range(len(dataset))) for name, dataset in labels.items()}
    correct = sum(count * float(row[f"val_pixel_accuracy/{name}"]) for name, count in pixels.items())
    assert float(row["val_pixel_accuracy"]) == pytest.approx(correct / sum(pixels.values()))


def test_metadata_and_config_name_all_datasets(joint_run: Path, scenes: Path, other: Path) -> None:
    metadata = read_checkpoint(joint_run / "checkpoints" / "last.safetensors").metadata
    names = f"{scenes.name} + other"
    assert (metadata.data, metadata.scored_on, metadata.labels) == (names, f"{names} val, 7 images", CITYSCAPES)
    assert (metadata.stages[-1].data, metadata.stages[-1].images) == (names, 10)
    assert f"--data {scenes.name} other --epochs" in metadata.stages[-1].command
    assert json.loads((joint_run / "config.json").read_text())["config"]["data"] == [str(scenes), str(other)]


def test_tensorboard_has_scores_of_each_dataset(joint_run: Path, scenes: Path) -> None:
    events = EventAccumulator(str(joint_run / "tensorboard"))
    events.Reload()
    assert {"miou/val", f"miou/val/{scenes.name}", "miou/val/other"} <= set(events.Tags()["scalars"])


def test_summary_and_epoch_list_datasets(joint_run_and_output: tuple[Path, str], scenes: Path) -> None:
    output = joint_run_and_output[1]
    assert f"{scenes.name} + other: 10 training and 7 validation images, 19 classes" in output
    assert "            other: 4 training and 2 validation images\n" in output and output.count("\n  other: mIoU 0.") == 2


def test_resumed_run_has_the_same_weights(joint_run: Path, tmp_path: Path, cli: Cli) -> None:
    run_dir = Path(shutil.copytree(joint_run, tmp_path / "r"))
    for path in ("resume/0002-000000.safetensors", "checkpoints/epoch-0002.safetensors"):
        (run_dir / path).unlink()
    assert cli("train", "--run", run_dir, "--resume")[0] == 0
    assert json.loads((run_dir / "config.json").read_text())["starts"][-1]["bitwise_reproducible"]
    expected, actual = (read_checkpoint(run / "checkpoints/epoch-0002.safetensors").tensors for run in (joint_run, run_dir))
    assert all(np.array_equal(actual[name], array) for name, array in expected.items())


def test_resume_with_fewer_data_directories_is_an_error(joint_run: Path, scenes: Path, tmp_path: Path, cli: Cli) -> None:
    run_dir = shutil.copytree(joint_run, tmp_path / "r")
    error = usage_error(cli, "train", "--run", run_dir, "--resume", "--epochs", 3, "--data", scenes)
    assert "--data: the images or labels differ from those that the run was trained on" in error
