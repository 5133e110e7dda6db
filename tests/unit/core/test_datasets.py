"""Data sets on disk: both layouts, and everything that can be wrong with them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from core.data.datasets import batches, check_dataset, open_dataset, read_sample
from core.errors import InputError


def test_cityscapes_layout_is_paired_in_a_fixed_order(scenes: Path) -> None:
    dataset = open_dataset(scenes, "val")
    assert (len(dataset), dataset.split, dataset.labels.name) == (5, "val", "Cityscapes")
    for photo, label in dataset.pairs:
        assert photo.name.replace("leftImg8bit", "gtFine_labelIds") == label.name
    rgb, labels = dataset[0]
    assert rgb.shape == (64, 128, 3) and labels.shape == (64, 128) and labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {*range(19), 255}


def test_plain_layout_brings_its_own_classes(plain: Path) -> None:
    dataset = open_dataset(plain, "train")
    assert dataset.labels.names == ("a", "b", "c")
    assert set(np.unique(dataset[0][1])) <= {0, 1, 2, 255}
    check_dataset(dataset)


def test_no_such_folder_tells_the_layouts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such data folder; expected DIR/leftImg8bit/SPLIT"):
        open_dataset(tmp_path / "nowhere", "train")


def test_a_folder_of_something_else_tells_the_layouts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a data set; expected"):
        open_dataset(tmp_path, "train")


def test_an_unknown_split_lists_the_known(scenes: Path) -> None:
    with pytest.raises(InputError, match="no split 'test'; found: train, val"):
        open_dataset(scenes, "test")


def test_a_photograph_without_label_is_named(plain: Path) -> None:
    (plain / "labels" / "train" / "1.png").unlink()
    with pytest.raises(InputError, match=r"1\.jpg has no label"):
        open_dataset(plain, "train")


def test_a_label_without_photograph_is_named(plain: Path) -> None:
    (plain / "images" / "train" / "0.jpg").unlink()
    with pytest.raises(InputError, match=r"0\.png has no photograph"):
        open_dataset(plain, "train")


def test_two_photographs_for_one_label_are_named(plain: Path) -> None:
    (plain / "images" / "train" / "0.png").write_bytes(b"x")
    with pytest.raises(InputError, match="a second file for the same sample"):
        open_dataset(plain, "train")


def test_values_outside_the_label_space_are_named_with_their_file(plain: Path) -> None:
    cv2.imwrite(str(plain / "labels" / "train" / "1.png"), np.full((50, 70), 77, np.uint8))
    with pytest.raises(InputError, match=r"1 of the 2 .*labels/train/1\.png: holds the label value\(s\) 77"):
        check_dataset(open_dataset(plain, "train"))


def test_everything_wrong_is_told_at_once(plain: Path) -> None:
    cv2.imwrite(str(plain / "labels" / "train" / "0.png"), np.full((48, 64), 9, np.uint8))
    cv2.imwrite(str(plain / "labels" / "train" / "1.png"), np.ones((9, 9), np.uint8))
    with pytest.raises(InputError, match=r"2 of the 2 .*holds the label value\(s\) 9.*its label is 9x9, its photograph 70x50"):
        check_dataset(open_dataset(plain, "train"))


def test_an_unreadable_file_is_named(plain: Path) -> None:
    (plain / "images" / "train" / "0.jpg").write_bytes(b"\xff\xd8\xff")
    (plain / "labels" / "train" / "1.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"0\.jpg: the picture is damaged.*1\.png: can't be read"):
        check_dataset(open_dataset(plain, "train"))


def test_missing_classes_json_is_told(plain: Path) -> None:
    (plain / "classes.json").unlink()
    with pytest.raises(InputError, match=r"classes\.json: not a usable classes\.json"):
        open_dataset(plain, "train")


@pytest.mark.parametrize(("count", "size", "ranks"), [(101, 8, 2), (1, 8, 2), (7, 3, 3), (0, 4, 1)])
def test_shares_of_all_ranks_are_the_whole_once(count: int, size: int, ranks: int) -> None:
    shares = [i for rank in range(ranks) for batch in batches(count, size, rank, ranks) for i in batch]
    assert sorted(shares) == list(range(count))


def test_a_city_may_be_a_link(scenes: Path, tmp_path: Path) -> None:
    for kind in ("leftImg8bit", "gtFine"):
        (tmp_path / kind / "val").mkdir(parents=True)
        for city in (scenes / kind / "val").iterdir():
            (tmp_path / kind / "val" / city.name).symlink_to(city)
    assert len(open_dataset(tmp_path, "val")) == len(open_dataset(scenes, "val")) > 0


def test_labels_that_were_not_unpacked_are_one_sentence(scenes: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes / "leftImg8bit", tmp_path / "leftImg8bit")
    with pytest.raises(InputError, match=r"photographs and no labels: there are none in .*gtFine/val"):
        open_dataset(tmp_path, "val")


def test_a_label_that_lies_as_the_photograph_did_before_it_was_turned_says_so(plain: Path) -> None:
    path = plain / "images" / "val" / "0.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)
    with pytest.raises(InputError, match="its label is 64x48, its photograph 48x64; where its EXIF orientation turns it"):
        check_dataset(open_dataset(plain, "val"))


def test_a_label_of_void_alone_is_nothing_to_learn_from_and_no_fault_of_an_evaluation(plain: Path) -> None:
    cv2.imwrite(str(plain / "labels" / "val" / "0.png"), np.zeros((48, 64), np.uint8))
    dataset = open_dataset(plain, "val")
    check_dataset(dataset)
    assert "every pixel of its label is void" in str(read_sample(dataset, 0))


def test_a_name_of_another_encoding_is_told(plain: Path) -> None:
    (plain / "images" / "val" / "0.jpg").rename(plain / "images" / "val" / os.fsdecode(b"stra\xdfe.jpg"))
    with pytest.raises(InputError, match=r"stra.*its name is no UTF-8; rename it"):
        open_dataset(plain, "val")
