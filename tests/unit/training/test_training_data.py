"""Tests of training.data.training_data: the splits of a run."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from core.data.datasets import open_dataset
from core.errors import InputError
from core.images.resize import Preprocess
from training.config import TrainConfig
from training.data.training_data import TrainingData, hold_out, make_data, validate_samples
from training.distributed.context import DistributedContext


def open_splits(data: Path, **settings: object) -> TrainingData:
    return make_data(
        TrainConfig(model="unet", data=str(data), run="r", cache="none", **settings),
        Preprocess(mode="fit", size=(32, 32), stride=16),
    )


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_validation_split_may_have_other_name(plain_dataset: Path, name: str) -> None:
    for kind in ("images", "labels"):
        (plain_dataset / kind / "val").rename(plain_dataset / kind / name)
    assert open_splits(plain_dataset).val.split == name


def test_splits_can_be_named(plain_dataset: Path) -> None:
    data = open_splits(plain_dataset, train_split="val", val_split="train")
    assert (data.train.split, data.val.split) == ("val", "train")


def test_missing_validation_split_names_flags(plain_dataset: Path) -> None:
    for kind in ("images", "labels"):
        shutil.rmtree(plain_dataset / kind / "val")
    with pytest.raises(InputError, match=r"no validation split; found: train; .*--val-split.*--val-fraction 0\.1"):
        open_splits(plain_dataset)


def test_fraction_of_training_split_is_held_out(plain_dataset: Path) -> None:
    data = open_splits(plain_dataset, val_fraction=0.5)
    assert (len(data.train), len(data.val)) == (1, 1)
    assert data.scan(skip_bad=False).held_out == [data.val.sample_name(0)]


def test_whole_sequences_are_held_out(scenes: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted((scenes / "leftImg8bit" / "train").rglob("*.png"))):
        label = Path(str(path).replace("leftImg8bit", "gtFine").replace("gtFine.png", "gtFine_labelIds.png"))
        for file, kind in ((path, "leftImg8bit"), (label, "gtFine")):
            (tmp_path / kind / "train" / f"city{number // 2}").mkdir(parents=True, exist_ok=True)
            shutil.copy(file, tmp_path / kind / "train" / f"city{number // 2}")
    dataset = open_dataset(tmp_path, "train")
    train, val = hold_out(dataset, 0.4)
    train_cities, val_cities = ({image.parent.name for image, _ in split.pairs} for split in (train, val))
    assert len(val_cities) == 1 and len(train_cities) == 2 and not train_cities & val_cities
    assert sorted([*train.pairs, *val.pairs]) == sorted(dataset.pairs)
    assert hold_out(dataset, 0.4)[1].pairs == val.pairs


def test_single_image_cannot_be_divided(plain_dataset: Path) -> None:
    for kind, suffix in (("images", "jpg"), ("labels", "png")):
        (plain_dataset / kind / "train" / f"1.{suffix}").unlink()
    with pytest.raises(InputError, match="--val-fraction needs at least two images in train"):
        open_splits(plain_dataset, val_fraction=0.5)


def test_each_rank_validates_its_shard_only(plain_dataset: Path) -> None:
    cv2.imwrite(str(plain_dataset / "labels" / "val" / "1.png"), np.full((50, 70), 77, np.uint8))
    dataset = open_dataset(plain_dataset, "val")
    validate_samples(dataset, DistributedContext(rank=0, world_size=2))
    with pytest.raises(InputError, match=r"1 of the 2 samples of val .*labels/val/1\.png: contains label ids 77"):
        validate_samples(dataset, DistributedContext(rank=1, world_size=2))


def test_image_above_max_pixels_is_unusable(plain_dataset: Path) -> None:
    scan = open_splits(plain_dataset, max_pixels=48 * 64).scan(skip_bad=True)
    assert len(scan.skipped) == 2 and all("expected at most 3,072 pixels" in problem for problem in scan.skipped)
