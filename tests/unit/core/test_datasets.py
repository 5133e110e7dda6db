"""Tests of core.data.datasets: both layouts, and an error for everything that can be wrong with a dataset."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from core.data.datasets import check_dataset, open_dataset, read_sample, shard_batches
from core.errors import InputError


def test_cityscapes_layout_is_paired(scenes: Path) -> None:
    dataset = open_dataset(scenes, "val")
    assert (len(dataset), dataset.split, dataset.labels.name) == (5, "val", "Cityscapes")
    assert dataset.pairs == sorted(dataset.pairs)
    for image_path, label_path in dataset.pairs:
        assert image_path.name.replace("leftImg8bit", "gtFine_labelIds") == label_path.name
    rgb, labels = dataset[0]
    assert rgb.shape == (64, 128, 3) and labels.shape == (64, 128) and labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {*range(19), 255}


def test_plain_layout_has_classes_of_classes_json(plain_dataset: Path) -> None:
    dataset = open_dataset(plain_dataset, "train")
    assert dataset.labels.names == ("a", "b", "c")
    assert set(np.unique(dataset[0][1])) <= {0, 1, 2, 255}
    check_dataset(dataset)


def test_linked_city_directories_are_followed(scenes: Path, tmp_path: Path) -> None:
    for kind in ("leftImg8bit", "gtFine"):
        (tmp_path / kind / "val").mkdir(parents=True)
        for city in (scenes / kind / "val").iterdir():
            (tmp_path / kind / "val" / city.name).symlink_to(city)
    assert len(open_dataset(tmp_path, "val")) == len(open_dataset(scenes, "val")) > 0


def test_missing_directory_lists_layouts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such data directory; expected DIR/leftImg8bit/SPLIT"):
        open_dataset(tmp_path / "nowhere", "train")


def test_directory_of_other_files_lists_layouts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a dataset; expected"):
        open_dataset(tmp_path, "train")


def test_unknown_split_lists_known_ones(scenes: Path) -> None:
    with pytest.raises(InputError, match="no split 'test'; found: train, val"):
        open_dataset(scenes, "test")


def test_missing_classes_json_is_reported(plain_dataset: Path) -> None:
    (plain_dataset / "classes.json").unlink()
    with pytest.raises(InputError, match=r"classes\.json: not a usable classes\.json"):
        open_dataset(plain_dataset, "train")


def test_missing_label_directory_is_reported(scenes: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes / "leftImg8bit", tmp_path / "leftImg8bit")
    with pytest.raises(InputError, match=r"images but no labels in .*gtFine/val"):
        open_dataset(tmp_path, "val")


def test_image_without_label_is_named(plain_dataset: Path) -> None:
    (plain_dataset / "labels" / "train" / "1.png").unlink()
    with pytest.raises(InputError, match=r"1\.jpg has no label"):
        open_dataset(plain_dataset, "train")


def test_label_without_image_is_named(plain_dataset: Path) -> None:
    (plain_dataset / "images" / "train" / "0.jpg").unlink()
    with pytest.raises(InputError, match=r"0\.png has no image"):
        open_dataset(plain_dataset, "train")


def test_two_images_for_one_label_are_rejected(plain_dataset: Path) -> None:
    (plain_dataset / "images" / "train" / "0.png").write_bytes(b"x")
    with pytest.raises(InputError, match="duplicates the sample of"):
        open_dataset(plain_dataset, "train")


def test_file_name_that_is_not_utf8_is_rejected(plain_dataset: Path) -> None:
    (plain_dataset / "images" / "val" / "0.jpg").rename(plain_dataset / "images" / "val" / os.fsdecode(b"stra\xdfe.jpg"))
    with pytest.raises(InputError, match=r"stra.*the file name is not valid UTF-8; rename the file"):
        open_dataset(plain_dataset, "val")


def test_unknown_label_ids_are_reported_with_their_file(plain_dataset: Path) -> None:
    cv2.imwrite(str(plain_dataset / "labels" / "train" / "1.png"), np.full((50, 70), 77, np.uint8))
    with pytest.raises(InputError, match=r"1 of the 2 .*labels/train/1\.png: contains label ids 77"):
        check_dataset(open_dataset(plain_dataset, "train"))


def test_all_problems_are_reported_at_once(plain_dataset: Path) -> None:
    cv2.imwrite(str(plain_dataset / "labels" / "train" / "0.png"), np.full((48, 64), 9, np.uint8))
    cv2.imwrite(str(plain_dataset / "labels" / "train" / "1.png"), np.ones((9, 9), np.uint8))
    with pytest.raises(InputError, match=r"2 of the 2 .*contains label ids 9.*its label is 9x9, its image 70x50"):
        check_dataset(open_dataset(plain_dataset, "train"))


def test_unreadable_files_are_named(plain_dataset: Path) -> None:
    (plain_dataset / "images" / "train" / "0.jpg").write_bytes(b"\xff\xd8\xff")
    (plain_dataset / "labels" / "train" / "1.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"0\.jpg: the image is damaged.*1\.png: can't be read"):
        check_dataset(open_dataset(plain_dataset, "train"))


def test_label_of_unrotated_image_mentions_exif(plain_dataset: Path) -> None:
    path = plain_dataset / "images" / "val" / "0.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)
    with pytest.raises(InputError, match="its label is 64x48, its image 48x64; if the EXIF orientation rotates the image"):
        check_dataset(open_dataset(plain_dataset, "val"))


def test_label_of_only_void_is_rejected_for_training_only(plain_dataset: Path) -> None:
    cv2.imwrite(str(plain_dataset / "labels" / "val" / "0.png"), np.zeros((48, 64), np.uint8))
    dataset = open_dataset(plain_dataset, "val")
    check_dataset(dataset)
    with pytest.raises(InputError, match="every pixel of its label is void"):
        read_sample(dataset, 0)


@pytest.mark.parametrize(("num_samples", "batch_size", "world_size"), [(101, 8, 2), (1, 8, 2), (7, 3, 3), (0, 4, 1)])
def test_shards_cover_every_sample_once(num_samples: int, batch_size: int, world_size: int) -> None:
    indices = [
        index
        for rank in range(world_size)
        for batch in shard_batches(num_samples, batch_size, rank, world_size)
        for index in batch
    ]
    assert sorted(indices) == list(range(num_samples))
