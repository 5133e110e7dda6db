"""Tests of core.data.datasets: both layouts, and an error for everything that can be wrong with a dataset."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from core.data.datasets import (
    ConcatDataset,
    DirectoryDataset,
    dataset_names,
    find_problems,
    format_problems,
    open_dataset,
    read_sample,
    reduce_images,
    relative_names,
    shard_batches,
)
from core.data.labels import CITYSCAPES, IGNORE_INDEX, LabelSpace
from core.errors import InputError
from core.images.decode import decode_reduced
from core.images.resize import Preprocess


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
    assert not find_problems(dataset)


def test_reduced_images_keep_full_size_labels(plain_dataset: Path) -> None:
    dataset = open_dataset(plain_dataset, "val")
    preprocess = Preprocess(mode="stretch", size=(16, 16), reduce_jpeg=True)
    rgb, labels = reduce_images(ConcatDataset([dataset]), preprocess)[0]
    expected = decode_reduced(dataset.pairs[0][0].read_bytes(), preprocess.output_size)[0]
    assert np.array_equal(rgb, expected) and rgb.shape == (24, 32, 3)
    assert np.array_equal(labels, dataset[0][1]) and labels.shape == (48, 64)


def test_relative_names_contain_no_path_of_the_computer() -> None:
    paths = [Path("/data/images/val/a/1.png"), Path("/data/images/val/b/1.png")]
    dataset = DirectoryDataset("data", "val", CITYSCAPES, [(path, path) for path in paths], CITYSCAPES)
    assert relative_names(dataset) == ["a/1.png", "b/1.png"]


def test_relative_name_of_single_image_is_file_name(plain_dataset: Path) -> None:
    (plain_dataset / "images" / "val" / "1.jpg").unlink()
    (plain_dataset / "labels" / "val" / "1.png").unlink()
    assert relative_names(open_dataset(plain_dataset, "val")) == ["0.jpg"]


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
    ((index, problem),) = find_problems(open_dataset(plain_dataset, "train"))
    assert index == 1 and "labels/train/1.png: contains label ids 77" in problem


def test_all_problems_are_reported_at_once(plain_dataset: Path) -> None:
    cv2.imwrite(str(plain_dataset / "labels" / "train" / "0.png"), np.full((48, 64), 9, np.uint8))
    cv2.imwrite(str(plain_dataset / "labels" / "train" / "1.png"), np.ones((9, 9), np.uint8))
    (_, first), (_, second) = find_problems(open_dataset(plain_dataset, "train"))
    assert "contains label ids 9" in first and "its label is 9x9, its image 70x50" in second


def test_unreadable_files_are_named(plain_dataset: Path) -> None:
    (plain_dataset / "images" / "train" / "0.jpg").write_bytes(b"\xff\xd8\xff")
    (plain_dataset / "labels" / "train" / "1.png").write_bytes(b"nothing")
    (_, first), (_, second) = find_problems(open_dataset(plain_dataset, "train"))
    assert "0.jpg: the image is damaged" in first and "1.png: can't be read" in second


def test_label_of_unrotated_image_mentions_exif(plain_dataset: Path) -> None:
    path = plain_dataset / "images" / "val" / "0.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)
    ((_, problem),) = find_problems(open_dataset(plain_dataset, "val"))
    assert "its label is 64x48, its image 48x64; if the EXIF orientation rotates the image" in problem


def test_label_of_only_void_is_rejected_for_training_only(plain_dataset: Path) -> None:
    cv2.imwrite(str(plain_dataset / "labels" / "val" / "0.png"), np.zeros((48, 64), np.uint8))
    dataset = open_dataset(plain_dataset, "val")
    assert not find_problems(dataset)
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


def copy_with_labels(scenes: Path, target: Path, ending: str) -> Path:
    """Copy the scenes' val split; a file of labels with the given ending has the kind of values that it stands for."""
    dataset = open_dataset(scenes, "val")
    shutil.copytree(scenes / "leftImg8bit" / "val", target / "leftImg8bit" / "val")
    for index, (_, path) in enumerate(dataset.pairs):
        train_ids = dataset[index][1]
        values = {
            "_gtFine_labelids": CITYSCAPES.decode(train_ids).astype(np.uint8),
            "_gtFine_labelTrainIds": train_ids,
            "_gtFine_color": CITYSCAPES.palette[train_ids],
        }[ending]
        copy = target / path.relative_to(scenes).parent / path.name.replace("_gtFine_labelIds", ending)
        copy.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(copy)
    return target


@pytest.mark.parametrize("ending", ["_gtFine_labelids", "_gtFine_labelTrainIds", "_gtFine_color"])
def test_other_label_files_of_cityscapes_are_used(scenes: Path, tmp_path: Path, ending: str) -> None:
    expected, dataset = open_dataset(scenes, "val"), open_dataset(copy_with_labels(scenes, tmp_path, ending), "val")
    assert len(dataset) == len(expected)
    assert all(np.array_equal(dataset[index][1], expected[index][1]) for index in range(len(expected)))
    assert dataset.labels == CITYSCAPES


def test_train_ids_in_files_of_label_ids_are_read_on_request(scenes: Path, tmp_path: Path) -> None:
    copy_with_labels(scenes, tmp_path, "_gtFine_labelTrainIds")
    for path in (tmp_path / "gtFine").rglob("*.png"):
        path.rename(path.with_name(path.name.replace("labelTrainIds", "labelIds")))
    expected, dataset = open_dataset(scenes, "val"), open_dataset(tmp_path, "val", train_ids=True)
    assert np.array_equal(dataset[0][1], expected[0][1])


def test_color_labels_have_colors_of_classes_json(plain_dataset: Path) -> None:
    dataset = open_dataset(plain_dataset, "val")
    expected = dataset[0][1]
    Image.fromarray(dataset.labels.palette[expected]).save(plain_dataset / "labels" / "val" / "0.png")
    assert np.array_equal(dataset[0][1], expected)


def test_unknown_color_is_reported_with_its_file(plain_dataset: Path) -> None:
    Image.new("RGB", (64, 48), (250, 0, 0)).save(plain_dataset / "labels" / "val" / "0.png")
    ((_, problem),) = find_problems(open_dataset(plain_dataset, "val"))
    assert re.search(r"val/0\.png: 3,072 pixels have the color \(250, 0, 0\).*nearest is 'a'", problem)


def test_jpeg_labels_are_refused_with_reason(plain_dataset: Path) -> None:
    for path in (plain_dataset / "labels" / "val").iterdir():
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    with pytest.raises(InputError, match=r"no labels in .*only 0\.jpg and the like; JPEG changes the values"):
        open_dataset(plain_dataset, "val")


@pytest.mark.parametrize("name", ["._0.jpg", "__MACOSX/0.jpg", ".DS_Store", "Thumbs.db"])
def test_files_of_operating_systems_are_skipped(plain_dataset: Path, name: str) -> None:
    path = plain_dataset / "images" / "val" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\0\5\x16\7")
    assert len(open_dataset(plain_dataset, "val")) == 2


def test_names_in_different_unicode_forms_are_paired(plain_dataset: Path) -> None:
    composed, decomposed = "stra\u00dfe-\u00fc", "stra\u00dfe-u\u0308"
    (plain_dataset / "images" / "val" / "0.jpg").rename(plain_dataset / "images" / "val" / f"{composed}.jpg")
    (plain_dataset / "labels" / "val" / "0.png").rename(plain_dataset / "labels" / "val" / f"{decomposed}.png")
    assert len(open_dataset(plain_dataset, "val")) == 2


def test_many_problems_are_summarized_and_listed_in_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    problems = [f"labels/{n}.png: contains label ids {n}, {n + 1}" for n in range(1000)]
    problems += [f"images/{n}.png has no label" for n in range(10)]
    text = format_problems("bad", problems)
    assert "1,000 like labels/0.png: contains label ids 0, 1, labels/1.png" in text
    assert "10 like images/0.png has no label" in text and len(text) < 500
    (listed,) = tmp_path.iterdir()
    assert text.endswith(f"all are listed in {listed}")
    assert listed.read_text().splitlines() == ["bad", *problems]


def label_space(*names: str) -> LabelSpace:
    return LabelSpace(name="x", names=names, ids=tuple(range(len(names))), colors=tuple((k, k, 1) for k in range(len(names))))


def test_labels_are_mapped_to_classes_with_the_same_names(plain_dataset: Path) -> None:
    dataset = open_dataset(plain_dataset, "train")
    mapped = dataset.with_labels(label_space("C", "other", "A", "b"))
    table = np.full(256, IGNORE_INDEX, np.uint8)
    table[:3] = 2, 3, 0
    assert mapped.labels.names == ("C", "other", "A", "b")
    assert all(np.array_equal(mapped[index][1], table[dataset[index][1]]) for index in range(len(dataset)))


def test_class_that_first_dataset_lacks_is_an_error(plain_dataset: Path) -> None:
    with pytest.raises(InputError, match=r"^plain: the first data directory has no class 'b', 'c'; .* are A, d\. Rename"):
        open_dataset(plain_dataset, "train").with_labels(label_space("A", "d"))


def test_class_that_first_dataset_lacks_can_be_void(plain_dataset: Path) -> None:
    dataset = open_dataset(plain_dataset, "train")
    mapped = dataset.with_labels(label_space("c", "a"), extra_as_void=True)
    assert np.array_equal(mapped[0][1] == IGNORE_INDEX, (dataset[0][1] == 1) | (dataset[0][1] == IGNORE_INDEX))


def test_concatenation_has_samples_of_all_parts_in_order(scenes: Path) -> None:
    parts = [open_dataset(scenes, split) for split in ("train", "val")]
    dataset = ConcatDataset(parts)
    assert (len(dataset), dataset.split) == (11, "train + val")
    names = [part.sample_name(index) for part in parts for index in range(len(part))]
    assert [dataset.sample_name(index) for index in range(11)] == names
    assert np.array_equal(dataset[6][0], parts[1][0][0]) and np.array_equal(dataset[5][1], parts[0][5][1])
    assert dataset.slices() == [slice(0, 6), slice(6, 11)]
    with pytest.raises(IndexError):
        dataset[11]


def test_data_directories_get_different_names(tmp_path: Path) -> None:
    assert dataset_names([tmp_path / path for path in ("a/x", "b/x", "x-2", "c/x")]) == ["x", "x-2", "x-2-2", "x-3"]


def test_data_directory_listed_twice_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "x")
    with pytest.raises(InputError, match=r"--data: .*/link is listed twice"):
        dataset_names([tmp_path / "x", tmp_path / "link"])
