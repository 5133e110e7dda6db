"""Tests of training.data.checks: labels that can be read but can't be meant."""

from __future__ import annotations

import pytest

from core.data.labels import CITYSCAPES, LabelSpace
from core.errors import InputError
from training.data.checks import check_classes, class_warnings, duplicate_warnings

ABC = LabelSpace(name="x", names=("a", "b", "c"), ids=(0, 1, 2), colors=((1, 1, 1), (2, 2, 2), (3, 3, 3)))


def test_training_labels_with_one_class_are_rejected() -> None:
    """A mask with the values 0 and 255: the object would be void, and every score 1."""
    with pytest.raises(
        InputError, match=r"all labeled pixels of train are 'a'; no pixel is 'b', 'c'.*255 .* is void: .* \"id\""
    ):
        check_classes("data", ABC, ABC, [9, 0, 0], [9, 1, 0])


def test_train_ids_in_files_of_label_ids_are_rejected() -> None:
    pixels = [int(label_id <= 18) for label_id in CITYSCAPES.ids]  # as road, sidewalk ... pole would be read
    with pytest.raises(
        InputError, match=r"no value above 18 .* rename them to \*_gtFine_labelTrainIds.png, or use --label-ids"
    ):
        check_classes("data", CITYSCAPES, CITYSCAPES, pixels, pixels)


def test_training_labels_with_the_one_class_that_a_dataset_has_of_the_run_are_accepted() -> None:
    road = LabelSpace(name="x", names=("B", "rest"), ids=(0, 1), colors=((1, 1, 1), (2, 2, 2)))
    check_classes("data", ABC, road, [0, 9, 0], [0, 9, 0])


def test_train_ids_are_rejected_although_the_run_has_other_classes() -> None:
    """The files hold Cityscapes label ids, of which the run has three; the ids above 18 are those of cars."""
    run = LabelSpace(name="x", names=("Car", "other", "road"), ids=(0, 1, 2), colors=((1, 1, 1), (2, 2, 2), (3, 3, 3)))
    check_classes("data", run, CITYSCAPES, [9, 0, 9], [0, 0, 0])
    with pytest.raises(InputError, match="no value above 18"):
        check_classes("data", run, CITYSCAPES, [0, 9, 9], [0, 0, 0])


def test_train_ids_in_files_of_train_ids_are_accepted() -> None:
    pixels = [int(label_id <= 18) for label_id in CITYSCAPES.ids]
    check_classes("data", CITYSCAPES, CITYSCAPES.as_train_ids(), pixels, pixels)


@pytest.mark.parametrize(
    ("train", "val", "expected"),
    [
        ((1, 1, 1), (1, 1, 1), []),
        ((1, 1, 0), (1, 0, 0), ["no pixel of train is c: can't be learned", "no pixel of val is b: no score can be computed"]),
        ((1, 1, 0), (1, 1, 1), ["no pixel of train is c: can't be learned; val has c, which will score 0"]),
        ((0, 1, 1), (0, 1, 1), ["no pixel of train is a: can't be learned; are the ids in the label files larger by one"]),
    ],
    ids=["all classes", "none in train, none in val", "only in val", "first class missing"],
)
def test_missing_classes_are_named(train: tuple[int, ...], val: tuple[int, ...], expected: list[str]) -> None:
    warnings = class_warnings(ABC, train, val)
    assert len(warnings) == len(expected)
    assert all(warning.startswith(start) for warning, start in zip(warnings, expected, strict=True))


def test_images_of_both_splits_are_counted() -> None:
    assert duplicate_warnings(["aa", "bb"], [("1.png", "cc"), ("2.png", "bb")]) == [
        "1 images of val are also in train, such as 2.png: scores will be too high"
    ]
    assert duplicate_warnings(["aa", "bb"], [("1.png", "cc")]) == []
