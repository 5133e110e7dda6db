"""Tests of the way from an annotation tool's export to a served mask: convert, train, serve, segment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from core.data.datasets import list_splits, open_dataset
from core.errors import InputError
from core.inference.segmenter import Segmenter
from service.app import create_app
from service.settings import load_settings
from tests.support.cli import Cli
from tests.support.live_server import wait_until_ready
from tests.support.paths import ROOT
from tests.support.sample_images import decode_mask
from training.conversion import FORMATS

EXPORTS = ROOT / "tests" / "data" / "exports"
TINY = ("--model", "ddunet", "--width", 2, "--size", 32, 32, "--epochs", 1, "--batch-size", 1, "--workers", 0)


def labeled_splits(data: Path) -> list[str]:
    """Return the splits of a converted dataset that have labels."""
    splits = []
    for split in list_splits(data):
        try:
            open_dataset(data, split)
        except InputError:
            continue
        splits.append(split)
    return splits


@pytest.mark.parametrize("export", sorted(path.name for path in EXPORTS.iterdir() if path.is_dir()))
def test_export_becomes_served_mask(tmp_path: Path, cli: Cli, export: str) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    source_format = export if export in FORMATS else export.partition("-")[0]
    assert cli("convert", EXPORTS / export, data, "--from", source_format)[0] == 0
    splits = labeled_splits(data)
    train = "train" if "train" in splits else splits[0]
    code, _, err = cli("train", "--data", data, "--run", run, "--train-split", train, "--val-split", splits[-1], *TINY)
    assert code == 0, err
    dataset = open_dataset(data, splits[-1])
    image = dataset.pairs[0][0].read_bytes()
    settings = load_settings(checkpoints=[run], state=tmp_path / "state", allowed_hosts=["testserver"])
    with TestClient(create_app(settings)) as client:
        mask = decode_mask(wait_until_ready(client).post("/segment", content=image).content)
    segmenter = Segmenter(run)
    assert segmenter.labels.names == dataset.labels.names and mask.shape == dataset[0][1].shape
    assert np.array_equal(mask, segmenter(image))
