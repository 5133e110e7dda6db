"""Tests of `python -m training synthesize`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.data.datasets import find_problems, open_dataset
from tests.support.cli import Cli
from training.data.training_data import open_split


def test_written_dataset_can_be_opened(tmp_path: Path, cli: Cli) -> None:
    assert cli("synthesize", tmp_path / "s", "--train", 2, "--val", 1, "--size", 64, 128)[0] == 0
    train, val = open_dataset(tmp_path / "s", "train"), open_dataset(tmp_path / "s", "val")
    assert (len(train), len(val)) == (2, 1)
    assert not find_problems(train)
    assert train.pairs[0][0].name == "generated_000000_000019_leftImg8bit.png"


@pytest.mark.parametrize("split", ["train", "val"])
def test_files_equal_scenes_of_synthetic_data(tmp_path: Path, cli: Cli, split: str) -> None:
    """`--data synthetic` generates the same scenes in memory."""
    assert cli("synthesize", tmp_path / "s", "--train", 1, "--val", 1, "--size", 256, 512)[0] == 0
    (rgb, labels), (expected_rgb, expected_labels) = open_dataset(tmp_path / "s", split)[0], open_split("synthetic", split)[0]
    assert np.array_equal(rgb, expected_rgb) and np.array_equal(labels, expected_labels)


def test_existing_dataset_is_not_overwritten(scenes: Path, cli: Cli) -> None:
    code, _, err = cli("synthesize", scenes)
    assert code == 2 and "already contains a dataset" in err


@pytest.mark.parametrize("flags", [("--size", 4, 4), ("--train", -1), ("--seed", -1)])
def test_invalid_number_is_rejected_in_one_line(tmp_path: Path, cli: Cli, flags: tuple[object, ...]) -> None:
    code, _, err = cli("synthesize", tmp_path / "s", *flags)
    assert code == 2 and flags[0] in err and err.count("\n") == 1
