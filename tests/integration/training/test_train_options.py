"""Tests of options of `python -m training train` on small, complete runs: losses, EMA, patience, and the summary of a run."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from core.checkpoints import safetensors_io
from core.checkpoints.checkpoint import Architecture, read_checkpoint
from tests.support.cli import Cli
from training.tracking.run_summary import count_parameters

TINY = ("--model", "ddunet", "--width", 2, "--size", 32, 64, "--batch-size", 2)


def test_all_options_combine(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    flags = ("--loss", "ce+dice", "--class-weights", "data", "--clip", 1, "--ema", 0.5, "--accumulate", 2, "--warmup", 1)
    flags += ("--precision", "bf16", "--schedule", "cosine", "--epochs", 3)
    code, out, _ = cli("train", "--data", scenes, "--run", tmp_path / "r", *TINY, *flags)
    assert code == 0 and "epoch 3/3" in out


def test_checkpoint_holds_ema_weights(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    for name, flags in (("ema", ("--ema", 0.9)), ("plain", ())):
        assert cli("train", "--data", scenes, "--run", tmp_path / name, *TINY, "--epochs", 1, *flags)[0] == 0
    state = safetensors_io.read(tmp_path / "ema" / "resume" / "0001-000000.safetensors")[1]
    ema, plain = (read_checkpoint(tmp_path / n / "checkpoints/last.safetensors").tensors for n in ("ema", "plain"))
    name = "encoder.0.0.0.weight"
    assert np.array_equal(ema[name], state[f"average.{name}"])
    assert np.array_equal(plain[name], state[f"network.{name}"])
    assert not np.array_equal(ema[name], plain[name])


def test_patience_stops_run_without_improvement(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    flags = ("--data", scenes, "--run", tmp_path / "r", *TINY, "--learning-rate", 1e-12, "--patience", 2)
    code, out, _ = cli("train", *flags, "--epochs", 50)
    assert code == 0 and "no better score in 2 epochs" in out and "epoch 9/50" not in out
    assert "no better score in 2 epochs" in cli("train", "--run", tmp_path / "r", "--resume")[1]


def test_infinite_validation_loss_is_a_warning_and_an_empty_cell(
    scenes: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.evaluation.metrics.cross_entropy_sum", lambda *_: (float("inf"), 1))
    code, out, _ = cli("train", "--data", scenes, "--run", tmp_path / "r", "--epochs", 1, *TINY)
    assert code == 0 and "warning: epoch 1: the validation loss is inf" in out
    row = next(csv.DictReader((tmp_path / "r" / "history.csv").open()))
    assert row["val_loss"] == "" and float(row["train_loss"]) > 0


def test_summary_of_run_is_printed(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    flags = ("--width", 4, "--size", 32, 64, "--batch-size", 2, "--workers", 0, "--epochs", 2, "--run", tmp_path / "runs" / "r")
    code, out, _ = cli("train", "--model", "ddunet", "--data", scenes, *flags)
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    parameters = count_parameters(Architecture(name="ddunet", width=4), 19)
    assert f"ddunet, width 4: {parameters:,} parameters" in lines["model"] and "GFLOP per 32x64 image" in lines["model"]
    assert "6 training and 5 validation images, 19 classes" in lines["data"]
    assert "2 of 3 steps of 2 images" in lines["epochs"]
    assert "about " in lines["memory"] and "CPU" in lines["devices"]
    assert f"tensorboard --logdir {tmp_path / 'runs'}" in lines["curves"]
    assert "for 2 epochs" in lines["time"]
