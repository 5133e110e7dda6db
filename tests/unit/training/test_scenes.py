"""Generated scenes: reproducible, of every class, in Cityscapes names and ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.data.datasets import check_dataset, open_dataset
from core.data.labels import CITYSCAPES
from training.data.training_data import open_data
from training.synthetic.scenes import street_scene


def test_the_same_seed_gives_the_same_scene_and_another_another() -> None:
    first, second, other = (street_scene(np.random.default_rng(n), 64, 128) for n in (1, 1, 2))
    assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])
    assert not np.array_equal(first[1], other[1])


def test_every_class_occurs_and_no_unknown_id() -> None:
    seen: set[int] = set()
    for n in range(60):
        seen |= set(np.unique(CITYSCAPES.encode(street_scene(np.random.default_rng(n), 128, 256)[1])).tolist())
    assert seen == {*range(19), 255}


@pytest.mark.parametrize("size", [(64, 128), (100, 60), (256, 256)])
def test_a_scene_has_the_size_that_is_asked_for(size: tuple[int, int]) -> None:
    rgb, labels = street_scene(np.random.default_rng(0), *size)
    assert rgb.shape == (*size, 3) and labels.shape == size and rgb.dtype == labels.dtype == np.uint8


def test_synthesize_writes_a_data_set_that_opens(tmp_path: Path, cli) -> None:
    assert cli("synthesize", tmp_path / "s", "--train", 2, "--val", 1, "--size", 64, 128)[0] == 0
    train, val = open_dataset(tmp_path / "s", "train"), open_dataset(tmp_path / "s", "val")
    assert (len(train), len(val)) == (2, 1)
    check_dataset(train)
    assert train.pairs[0][0].name == "generated_000000_000019_leftImg8bit.png"


def test_files_hold_what_the_generator_gives(tmp_path: Path, cli) -> None:
    cli("synthesize", tmp_path / "s", "--train", 1, "--val", 1, "--size", 256, 512)
    for split in ("train", "val"):
        (rgb, labels), (told_rgb, told_labels) = open_dataset(tmp_path / "s", split)[0], open_data("synthetic", split)[0]
        assert np.array_equal(rgb, told_rgb) and np.array_equal(labels, told_labels)


def test_a_folder_that_holds_a_data_set_is_kept(scenes: Path, cli) -> None:
    code, _, err = cli("synthesize", scenes)
    assert code == 2 and "already holds a data set" in err


@pytest.mark.parametrize("flags", [("--size", 4, 4), ("--train", -1), ("--seed", -1)])
def test_wrong_numbers_are_told(tmp_path: Path, cli, flags: tuple[object, ...]) -> None:
    code, _, err = cli("synthesize", tmp_path / "s", *flags)
    assert code == 2 and flags[0] in err and err.count("\n") == 1
