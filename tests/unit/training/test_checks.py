"""Tests of training.data.checks: labels that can be read but can't be meant."""

from __future__ import annotations

import pytest

from core.data.labels import CITYSCAPES, LabelSpace
from core.errors import InputError
from training.data.checks import check_classes, class_warnings, duplicate_warnings
from training.data.storage import SplitIndex

ABC = LabelSpace(name="x", names=("a", "b", "c"), ids=(0, 1, 2), colors=((1, 1, 1), (2, 2, 2), (3, 3, 3)))


def index(*digests: str) -> SplitIndex:
    return SplitIndex(pixels=[], image_digests=list(digests))


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
    train, val = index("aa", "bb"), index("cc", "bb")
    assert duplicate_warnings(train, val, ["1.png", "2.png"]) == [
        "1 images of val are also in train, such as 2.png: scores will be too high"
    ]
    assert duplicate_warnings(train, index("cc"), ["1.png"]) == []
