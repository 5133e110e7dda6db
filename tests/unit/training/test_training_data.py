"""Tests of training.data.training_data: the splits of a run."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from core.data.datasets import open_dataset
from core.data.labels import LabelSpace
from core.errors import InputError
from core.images.resize import Preprocess
from training.config import TrainConfig
from training.data.cache import DecodedCache
from training.data.training_data import TrainingData, hold_out, make_data, validate_samples
from training.distributed.context import DistributedContext


def open_splits(*data: Path, **settings: object) -> TrainingData:
    return make_data(
        TrainConfig(model="unet", data=[str(path) for path in data], run="r", cache="none", **settings),
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


@pytest.fixture
def second_dataset(plain_dataset: Path, tmp_path: Path) -> Path:
    """Another data set with the classes and samples of `plain_dataset`."""
    return Path(shutil.copytree(plain_dataset, tmp_path / "second"))


def remove_split(data: Path, split: str) -> None:
    for kind in ("images", "labels"):
        shutil.rmtree(data / kind / split)


def test_fraction_of_each_directory_is_held_out(plain_dataset: Path, second_dataset: Path) -> None:
    data = open_splits(plain_dataset, second_dataset, val_fraction=0.5)
    assert [(part.name, len(part)) for part in data.val.parts] == [("plain", 1), ("second", 1)]
    assert data.scan(skip_bad=False).held_out == [data.val.sample_name(index) for index in (0, 1)]


def test_pixels_of_all_directories_are_counted(plain_dataset: Path, second_dataset: Path) -> None:
    one, both = (open_splits(*data).scan(skip_bad=False) for data in ((plain_dataset,), (plain_dataset, second_dataset)))
    assert both.train_pixels == [2 * pixels for pixels in one.train_pixels]


def test_images_shared_between_directories_are_reported(plain_dataset: Path, second_dataset: Path) -> None:
    for kind in ("images", "labels"):
        for path in (plain_dataset / kind / "train").iterdir():
            shutil.copy(path, second_dataset / kind / "val")
    (warning,) = open_splits(plain_dataset, second_dataset).scan(skip_bad=False).warnings
    assert f"2 images of val are also in train, such as {second_dataset}" in warning


def test_directory_without_validation_split_is_trained_on_only(plain_dataset: Path, second_dataset: Path) -> None:
    remove_split(second_dataset, "val")
    data = open_splits(plain_dataset, second_dataset)
    assert (data.train.name, data.val.name, len(data.train), len(data.val)) == ("plain + second", "plain", 4, 2)
    assert "second has no validation split: its images are trained on, but not evaluated" in data.scan(False).warnings


def test_directory_without_training_split_is_an_error(plain_dataset: Path, second_dataset: Path) -> None:
    remove_split(second_dataset, "train")
    with pytest.raises(InputError, match="second: no split 'train'; found: val"):
        open_splits(plain_dataset, second_dataset)


def test_synthetic_data_and_directory_are_not_combined(plain_dataset: Path) -> None:
    with pytest.raises(InputError, match="--data: synthetic can't be combined with directories"):
        open_splits(plain_dataset, Path("synthetic"))


def test_cache_of_mapped_classes_is_another_file(plain_dataset: Path, tmp_path: Path) -> None:
    dataset = open_dataset(plain_dataset, "train")
    spaces = [
        LabelSpace(name="x", names=tuple(names), ids=tuple(range(len(names))), colors=[(k, k, k) for k in range(len(names))])
        for names in ("cba", "abcd", "abcde")
    ]
    policy = open_splits(plain_dataset).train_policy
    variants = [dataset, *(dataset.with_labels(space) for space in spaces)]
    assert len({DecodedCache(variant, policy, tmp_path).path for variant in variants}) == 4


def test_only_cache_of_reduced_images_is_another_file(plain_dataset: Path, tmp_path: Path) -> None:
    """So caches of versions that reduced no images stay valid."""
    dataset, data = open_dataset(plain_dataset, "train"), open_splits(plain_dataset)
    for policy, num_files in ((data.train_policy, 1), (data.val_policy, 2)):
        variants = [policy.preprocess.model_copy(update={"reduce_jpeg": value}) for value in (False, True)]
        paths = {DecodedCache(dataset, replace(policy, preprocess=variant), tmp_path).path for variant in variants}
        assert len(paths) == num_files


def test_class_that_first_directory_lacks_can_be_ignored(plain_dataset: Path, second_dataset: Path) -> None:
    classes = second_dataset / "classes.json"
    classes.write_text(classes.read_text().replace('"c"', '"d"'))
    with pytest.raises(InputError, match="second: the first data directory has no class 'd'"):
        open_splits(plain_dataset, second_dataset)
    data = open_splits(plain_dataset, second_dataset, extra_classes="void")
    assert data.train.labels.names == ("a", "b", "c")
    assert data.train[2][1].max() == 255 and 2 not in data.train[2][1] and 2 in data.train[0][1]
