"""Tests of core.data.labels: Cityscapes against its official scripts, and classes.json files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.helpers.labels import labels as official_labels

from core.data.labels import CITYSCAPES, IGNORE_INDEX, LabelSpace, read_classes
from core.errors import InputError
from core.images.decode import LabelImage

TRAIN_LABELS = sorted((label for label in official_labels if 0 <= label.trainId < 255), key=lambda label: label.trainId)


def write_classes(directory: Path, document: object) -> Path:
    path = directory / "classes.json"
    path.write_text(json.dumps(document))
    return path


def make_classes(names: str) -> list[dict[str, object]]:
    """Return the class entries of a classes.json for one-letter names, each with its own color."""
    return [{"name": name, "color": [index, 1, 1]} for index, name in enumerate(names)]


def test_cityscapes_names_ids_and_colors_are_official() -> None:
    assert CITYSCAPES.names == tuple(label.name for label in TRAIN_LABELS)
    assert CITYSCAPES.ids == tuple(label.id for label in TRAIN_LABELS)
    assert CITYSCAPES.colors == tuple(label.color for label in TRAIN_LABELS)


def test_encode_maps_every_official_id_to_its_train_id() -> None:
    ids = np.array([label.id for label in official_labels]).astype(np.uint8)  # -1 is 255 in an 8-bit file
    expected = [label.trainId if 0 <= label.trainId < 255 else IGNORE_INDEX for label in official_labels]
    assert CITYSCAPES.encode(ids).tolist() == expected


def test_encode_rejects_unknown_ids() -> None:
    with pytest.raises(InputError, match=r"34, 99.*expected 0\.\.33, 255"):
        CITYSCAPES.encode(np.array([[7, 34], [99, 0]], np.uint8))


def test_decode_inverts_encode() -> None:
    train_ids = np.arange(19, dtype=np.uint8)
    assert CITYSCAPES.encode(CITYSCAPES.decode(train_ids)).tolist() == train_ids.tolist()


def test_decode_maps_void_to_unlabeled() -> None:
    assert CITYSCAPES.decode(np.array([IGNORE_INDEX], np.uint8)).tolist() == [0]


def test_palette_holds_class_colors_and_black() -> None:
    assert CITYSCAPES.palette.shape == (256, 3)
    assert CITYSCAPES.palette[:19].tolist() == [list(label.color) for label in TRAIN_LABELS]
    assert not CITYSCAPES.palette[19:].any()


def test_classes_json_defines_names_ids_and_void(tmp_path: Path) -> None:
    classes = [{"name": "road", "color": [1, 2, 3]}, {"name": "lawn", "color": [4, 5, 6], "id": 9}]
    space = read_classes(write_classes(tmp_path, {"void": 7, "classes": classes}))
    assert (space.names, space.ids, space.void_ids) == (("road", "lawn"), (0, 9), (7,))
    assert space.colors == ((1, 2, 3), (4, 5, 6))
    assert space.encode(np.array([0, 9, 7], np.uint8)).tolist() == [0, 1, IGNORE_INDEX]


def test_classes_json_may_have_16_bit_ids(tmp_path: Path) -> None:
    classes = [{**entry, "id": 40000 + index} for index, entry in enumerate(make_classes("xy"))]
    space = read_classes(write_classes(tmp_path, {"void": 0, "classes": classes}))
    assert space.encode(np.array([40000, 0, 40001], np.uint16)).tolist() == [0, IGNORE_INDEX, 1]


def test_classes_json_may_have_byte_order_mark(tmp_path: Path) -> None:
    path = write_classes(tmp_path, {"classes": make_classes("ab")})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_classes(path).names == ("a", "b")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"classes": [{"name": "a", "color": [1, 1, 1]}, {"name": "b", "color": [1, 1, 1]}]}, "color .* is used twice"),
        ({"classes": [{"name": "a", "color": [1, 1, 1]}, {"name": "a", "color": [2, 1, 1]}]}, "name a is used twice"),
        ({"classes": [{"name": str(n), "color": [n, n // 256, 0]} for n in range(256)]}, "names"),
        ({"classes": [{"name": "a"}]}, "'color' is missing"),
        ({"classes": []}, "names"),
        ({"classes": [{"name": "road", "color": [1, 2, 3]}]}, "a single class"),
        ({"void": 0, "classes": make_classes("ab")}, "id 0 is both void and the class 'a'"),
        ({}, "'classes' is missing"),
        ([], "not a usable"),
        ({"classes": [{"name": "a", "color": [1, 2]}]}, r"the color \[1, 2\] is not usable; expected"),
        ({"classes": [{"name": "a", "color": [1, 2, 300]}]}, "0 to 255"),
    ],
    ids=[
        "duplicate color", "duplicate name", "256 classes", "no color", "no classes", "one class", "void is a class",
        "empty object", "list", "two channels", "color above 255",
    ],
)  # fmt: skip
def test_invalid_classes_json_is_rejected_in_one_line(tmp_path: Path, document: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_classes(write_classes(tmp_path, document))
    assert "\n" not in str(error.value)


def test_classes_json_may_be_utf_16(tmp_path: Path) -> None:
    path = write_classes(tmp_path, {"classes": make_classes("ab")})
    path.write_bytes(path.read_text().encode("utf-16"))
    assert read_classes(path).names == ("a", "b")


def test_classes_json_may_have_hex_colors(tmp_path: Path) -> None:
    classes = [{"name": "road", "color": "#804080"}, {"name": "car", "color": "00008e"}]
    assert read_classes(write_classes(tmp_path, {"classes": classes})).colors == ((128, 64, 128), (0, 0, 142))


def test_encode_colors_maps_official_colors(tmp_path: Path) -> None:
    """The void labels `license plate` and `polegroup` share their colors with `car` and `pole`."""
    labels = [label for label in official_labels if label.name not in ("license plate", "polegroup")]
    expected = [label.trainId if 0 <= label.trainId < 255 else IGNORE_INDEX for label in labels]
    assert CITYSCAPES.encode_colors(np.array([label.color for label in labels], np.uint8)).tolist() == expected


def test_encode_colors_names_unknown_color_and_nearest_class() -> None:
    rgb = np.full((2, 3, 3), (128, 64, 128), np.uint8)
    rgb[0] = 0, 0, 140
    with pytest.raises(InputError, match=r"3 pixels have the color \(0, 0, 140\), .* nearest is 'car' with \(0, 0, 142\)"):
        CITYSCAPES.encode_colors(rgb)


def test_black_class_is_not_void() -> None:
    space = LabelSpace(name="x", names=("a", "b"), ids=(0, 1), colors=((0, 0, 0), (9, 9, 9)), void_colors=((7, 7, 7),))
    assert space.encode_colors(np.array([[0, 0, 0], [9, 9, 9], [7, 7, 7]], np.uint8)).tolist() == [0, 1, IGNORE_INDEX]


PALETTE_SPACE = LabelSpace(name="x", names=("a", "b"), ids=(1, 2), colors=((255, 0, 0), (0, 255, 0)), void_ids=(0,))


@pytest.mark.parametrize(
    ("indices", "palette", "expected"),
    [
        ([0, 1, 2], [(0, 0, 0), (255, 0, 0), (0, 255, 0)], [IGNORE_INDEX, 0, 1]),
        ([0, 1, 2], [(5, 5, 5), (6, 6, 6), (7, 7, 7)], [IGNORE_INDEX, 0, 1]),
        ([0, 1, 3], [(0, 255, 0), (255, 0, 0), (9, 9, 9), (0, 0, 0)], [1, 0, IGNORE_INDEX]),
    ],
    ids=["ids and colors agree", "other colors", "indices are no ids"],
)
def test_palette_label_is_read_by_ids_else_by_colors(
    indices: list[int], palette: list[tuple[int, int, int]], expected: list[int]
) -> None:
    label = LabelImage(np.array([indices], np.uint8), np.array(palette, np.uint8))
    assert PALETTE_SPACE.encode_label(label).tolist() == [expected]


def test_palette_that_contradicts_classes_is_rejected() -> None:
    label = LabelImage(np.array([[1, 2]], np.uint8), np.array([(0, 0, 0), (0, 255, 0), (255, 0, 0)], np.uint8))
    with pytest.raises(
        InputError, match=r"index 1 is the class 'a' with the color \(255, 0, 0\).*\(0, 255, 0\), is that of 'b'"
    ):
        PALETTE_SPACE.encode_label(label)


def test_void_colors_are_not_part_of_metadata() -> None:
    assert "void_colors" not in CITYSCAPES.model_dump()


def test_label_spaces_are_equal_after_use() -> None:
    """The lookup tables are cached in the object and must not be compared."""
    first, second = (LabelSpace(name="x", names=("a", "b"), ids=(1, 2), colors=((1, 1, 1), (2, 2, 2))) for _ in range(2))
    for space in (first, second):
        space.encode(np.array([1, 2], np.uint8))
    assert first == second and hash(first) == hash(second)
    assert first != first.as_train_ids()


def test_255_classes_are_accepted() -> None:
    names = tuple(map(str, range(255)))
    colors = tuple((n, 1, 2) for n in range(255))
    assert len(LabelSpace(name="many", names=names, ids=tuple(range(255)), colors=colors)) == 255


def test_classes_are_mapped_by_name_without_regard_to_case() -> None:
    colors = ((1, 1, 1), (2, 2, 2), (3, 3, 3))
    other = LabelSpace(name="x", names=("car", "Road", "lawn"), ids=(7, 8, 9), colors=colors)
    assert other.class_map(CITYSCAPES) == (13, 0, IGNORE_INDEX)


def test_classes_that_differ_in_case_only_are_mapped_exactly() -> None:
    space = LabelSpace(name="x", names=("car", "Car"), ids=(0, 1), colors=((1, 1, 1), (2, 2, 2)))
    assert space.class_map(space) == (0, 1)
