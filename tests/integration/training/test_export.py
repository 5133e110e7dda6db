"""Tests of `python -m training export --to fp16`: half the size, the same masks, and metadata about the training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from core.checkpoints.checkpoint import PRETRAINED, Checkpoint, bundled_checkpoints, read_checkpoint, write_checkpoint
from core.data.datasets import open_dataset
from core.data.labels import IGNORE_INDEX
from core.images.resize import resize_label
from core.inference.segmenter import Segmenter
from tests.support.cli import Cli
from training import evaluation
from training.__main__ import main
from training.comparison.models import open_models
from training.tracking.history import read_rows, read_table, write_table

TINY = ("--width", 8, "--size", 32, 64, "--batch-size", 2, "--workers", 0, "--epochs", 2)


@pytest.fixture(scope="module")
def run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of an R2U-Net of width 8."""
    run_dir = tmp_path_factory.mktemp("runs") / "tiny"
    assert main([str(a) for a in ("train", "--model", "r2unet", "--data", scenes, "--run", run_dir, *TINY)]) == 0
    return run_dir


@pytest.fixture
def exported(run: Path, scenes: Path, tmp_path: Path, cli: Cli) -> Path:
    """The run's best checkpoint, exported with license and limitations."""
    out = tmp_path / "small.safetensors"
    flags = ("--to", "fp16", "--data", scenes, "--license", "for research", "--limitations", "scenes only")
    assert cli("export", run, "--out", out, *flags)[0] == 0
    return out


def test_weights_are_fp16_and_statistics_are_fp32(run: Path, exported: Path) -> None:
    best = run / "checkpoints" / "best.safetensors"
    assert exported.stat().st_size < 0.6 * best.stat().st_size
    before, after = read_checkpoint(best).tensors, read_checkpoint(exported).tensors
    for name, array in after.items():
        assert array.dtype == (np.float16 if array.ndim > 1 else before[name].dtype)
        assert np.allclose(array, before[name], rtol=1e-3, atol=1e-6)
    assert any("running_var" in name and array.dtype == np.float32 for name, array in after.items())


def test_fp16_predicts_same_labels(run: Path, exported: Path, scenes: Path) -> None:
    before, after = Segmenter(run), Segmenter(exported)
    agreement = [(before(rgb).labels == after(rgb).labels).mean() for rgb, _ in open_dataset(scenes, "val")]
    assert min(agreement) > 0.99


def test_metadata_has_license_limitations_hours_and_scores(exported: Path, scenes: Path, tmp_path: Path, cli: Cli) -> None:
    metadata = read_checkpoint(exported).metadata
    assert (metadata.license, metadata.limitations) == ("for research", "scenes only")
    assert metadata.scored_on == f"{scenes.name} val, 5 images"
    assert metadata.stages[0].hours is not None and metadata.stages[0].command.startswith(
        "python -m training train --model r2unet"
    )
    assert cli("evaluate", exported, "--data", scenes, "--json", tmp_path / "r.json")[0] == 0
    assert metadata.scores["miou"] == json.loads((tmp_path / "r.json").read_text())["scores"]["miou"]


def test_history_is_copied(run: Path, exported: Path) -> None:
    assert exported.with_name("small.history.csv").read_text() == (run / "history.csv").read_text()


def test_weight_outside_fp16_range_is_rejected(run: Path, tmp_path: Path, cli: Cli) -> None:
    source = read_checkpoint(run / "checkpoints" / "best.safetensors")
    tensors = {**source.tensors, "head.weight": source.tensors["head.weight"] * 1e9}
    write_checkpoint(tmp_path / "large.safetensors", source.metadata, tensors)
    code, _, err = cli("export", tmp_path / "large.safetensors", "--to", "fp16", "--out", tmp_path / "x.safetensors")
    assert code == 2 and "head.weight" in err and "65504" in err and not (tmp_path / "x.safetensors").exists()


def test_checkpoint_does_not_overwrite_itself(run: Path, cli: Cli) -> None:
    best = run / "checkpoints" / "best.safetensors"
    code, _, err = cli("export", best, "--to", "fp16", "--out", best)
    assert code == 2 and "itself" in err


def test_other_file_extension_is_rejected(run: Path, tmp_path: Path, cli: Cli) -> None:
    code, _, err = cli("export", run, "--to", "fp16", "--out", tmp_path / "x.pt")
    assert code == 2 and ".safetensors" in err


def test_history_of_second_stage_includes_first(exported: Path, scenes: Path, tmp_path: Path, cli: Cli) -> None:
    second = tmp_path / "second"
    flags = ("--model", "r2unet", "--data", scenes, "--init", exported, "--run", second, *TINY, "--epochs", 3)
    assert cli("train", *flags)[0] == 0
    for path in (second / "history.earlier.csv", second / "history.csv"):
        rows, names = read_table(path)
        write_table(path, [{**row, "seconds": 3600 * int(row["epoch"])} for row in rows], names)
    assert cli("export", second, "--to", "fp16", "--out", tmp_path / "both.safetensors")[0] == 0
    rows = read_rows(tmp_path / "both.history.csv")
    assert [row["epoch"] for row in rows] == [1, 2, 1, 2, 3]
    stages = read_checkpoint(tmp_path / "both.safetensors").metadata.stages
    assert len(stages) == 2 and stages[0].hours is not None
    assert stages[1].hours == 1 + 2 + 3  # all epochs, whichever is the best
    (model,) = open_models([str(second)], "cpu", "auto")
    assert model.history == rows


def test_hours_include_stage_that_was_not_exported(run: Path, scenes: Path, tmp_path: Path, cli: Cli) -> None:
    second = tmp_path / "second"
    assert cli("train", "--model", "r2unet", "--data", scenes, "--init", run, "--run", second, *TINY)[0] == 0
    for path, hours in ((second / "history.earlier.csv", 2), (second / "history.csv", 1)):
        rows, names = read_table(path)
        write_table(path, [{**row, "seconds": 3600 * hours} for row in rows], names)
    assert cli("export", second, "--to", "fp16", "--out", tmp_path / "both.safetensors")[0] == 0
    assert [stage.hours for stage in read_checkpoint(tmp_path / "both.safetensors").metadata.stages] == [2 * 2, 2 * 1]


def test_invalid_history_is_rejected_before_training(exported: Path, scenes: Path, tmp_path: Path, cli: Cli) -> None:
    exported.with_name("small.history.csv").write_text("epoch,loss\n,1\n")
    code, _, err = cli("train", "--model", "r2unet", "--data", scenes, "--init", exported, "--run", tmp_path / "second", *TINY)
    assert code == 2 and "small.history.csv: not a training history" in err and not (tmp_path / "second").exists()


@pytest.mark.parametrize("source", ["ddunet", "core/pretrained/ddunet.safetensors"])
def test_export_of_bundled_checkpoint_needs_output_path(cli, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.chdir(PRETRAINED.parents[1])
    before = bundled_checkpoints()
    code, _, err = cli("export", source, "--to", "fp16")
    assert code == 2 and "--out" in err and bundled_checkpoints() == before


def test_scores_are_computed_with_exported_weights(
    run: Path, scenes: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "copied.safetensors"
    shutil.copy(run / "checkpoints" / "best.safetensors", source)
    assert cli("export", source, "--fp32")[0] == 0
    backends: list[str] = []
    evaluate = evaluation.evaluate

    def record_backend(checkpoint: Checkpoint, segmenter: Segmenter, *args: Any) -> Any:
        backends.append(segmenter.backend.name)
        return evaluate(checkpoint, segmenter, *args)

    monkeypatch.setattr(evaluation, "evaluate", record_backend)
    assert cli("export", source, "--to", "fp16", "--data", scenes, "--out", tmp_path / "fp16.safetensors")[0] == 0
    assert backends == ["torch"]


def test_confidence_is_calibrated_on_data(exported: Path, run: Path, scenes: Path) -> None:
    """The temperature has the smallest cross-entropy, compared with torch's on all pixels at the network's size."""
    calibration = read_checkpoint(exported).metadata.calibration
    assert calibration is not None and read_checkpoint(run / "checkpoints" / "best.safetensors").metadata.calibration is None
    segmenter = Segmenter(exported)
    logits, labels = [], []
    for rgb, full_labels in open_dataset(scenes, "val"):
        x = segmenter.preprocess_image(rgb)
        logits.append(torch.from_numpy(segmenter.forward_batch([x])[0]).flatten(1))
        labels.append(torch.from_numpy(resize_label(full_labels, x.shape[:2])).flatten().long())
    pixels, classes = torch.cat(logits, 1).T, torch.cat(labels)
    temperatures = torch.linspace(0.7, 1.5, 81) * calibration.temperature
    losses = [float(cross_entropy(pixels / t, classes, ignore_index=IGNORE_INDEX)) for t in temperatures]
    assert float(temperatures[np.argmin(losses)]) == pytest.approx(calibration.temperature, rel=0.05)
    assert calibration.ece_after < calibration.ece_before


def test_export_without_data_has_no_calibration(run: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("export", run, "--to", "fp16", "--out", tmp_path / "x.safetensors")[0] == 0
    assert read_checkpoint(tmp_path / "x.safetensors").metadata.calibration is None
