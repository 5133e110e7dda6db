"""Tests that files of schema version 1 can be read; release 0.1 wrote those in tests/data/schema_v1."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from core.backends.loader import load_backend
from core.checkpoints.checkpoint import read_checkpoint
from core.evaluation.report import Report
from core.inference.segmenter import Segmenter
from tests.support.cli import Cli
from tests.support.paths import ROOT
from training.tracking.history import read_rows

V1 = ROOT / "tests" / "data" / "schema_v1"


def test_checkpoint_metadata_is_upgraded() -> None:
    metadata = read_checkpoint(V1 / "model.safetensors").metadata
    assert (metadata.schema_version, metadata.license, metadata.limitations) == (2, "test", "none")
    assert metadata.stages[-1].epochs == 1
    assert metadata.labels.colors[0] == (128, 64, 128)
    best = read_checkpoint(V1 / "run" / "checkpoints" / "best.safetensors").metadata
    assert set(best.scores) == {"pixel_accuracy", "miou", "miou_present"}


def test_exported_model_matches_checkpoint() -> None:
    checkpoint = read_checkpoint(V1 / "model.safetensors")
    exported = load_backend(checkpoint, "cpu", "openvino-fp32")
    image = np.random.default_rng(0).integers(0, 256, (40, 70, 3), np.uint8)
    actual, expected = (
        Segmenter.from_backend(backend, checkpoint.metadata.labels)(image).labels
        for backend in (exported, load_backend(checkpoint, "cpu", "torch"))
    )
    assert (actual == expected).mean() > 0.999


def test_report_is_upgraded() -> None:
    report = Report.model_validate_json((V1 / "report.json").read_bytes())
    assert report.protocol.score_size == "label"
    assert report.scores.miou_present == json.loads((V1 / "report.json").read_text())["scores"]["macro_iou_labelled"]
    assert "miou" in report.intervals


def test_history_columns_are_upgraded() -> None:
    (row,) = read_rows(V1 / "run" / "history.csv")
    assert {"val_miou", "val_miou_present", "train_running_miou"} <= row.keys()
    assert not any("macro_iou" in name for name in row)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A copy of the run of version 1."""
    return Path(shutil.copytree(V1 / "run", tmp_path / "run"))


def test_run_can_be_resumed(run_dir: Path, cli: Cli) -> None:
    code, _, err = cli("train", "--run", run_dir, "--resume", "--epochs", 2)
    assert code == 0, err
    assert [row["epoch"] for row in read_rows(run_dir / "history.csv")] == [1, 2]
    config = json.loads((run_dir / "config.json").read_text())
    assert config["schema_version"] == 2 and [start["world_size"] for start in config["starts"]] == [1, 1]
    assert read_checkpoint(run_dir / "checkpoints" / "last.safetensors").metadata.stages[-1].epochs == 2
