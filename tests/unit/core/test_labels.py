"""The label space: Cityscapes by its own scripts, and other data sets through classes.json."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.helpers.labels import labels as official

from core.data.labels import CITYSCAPES, LabelSpace, read_classes
from core.errors import InputError

EVALUATED = sorted((label for label in official if 0 <= label.trainId < 255), key=lambda label: label.trainId)


def test_names_ids_and_colours_are_the_official_ones() -> None:
    assert CITYSCAPES.names == tuple(label.name for label in EVALUATED)
    assert CITYSCAPES.ids == tuple(label.id for label in EVALUATED)
    assert CITYSCAPES.colours == tuple(label.color for label in EVALUATED)


def test_every_official_id_becomes_its_train_id() -> None:
    ids = np.array([label.id for label in official]).astype(np.uint8)  # -1 is 255 in an 8-bit file
    expected = [label.trainId if 0 <= label.trainId < 255 else 255 for label in official]
    assert CITYSCAPES.encode(ids).tolist() == expected


def test_sky_has_its_colour() -> None:
    assert CITYSCAPES.palette[CITYSCAPES.names.index("sky")].tolist() == [70, 130, 180]


def test_palette_is_black_where_there_is_no_class() -> None:
    assert not CITYSCAPES.palette[19:].any()


def test_unknown_values_are_named() -> None:
    with pytest.raises(InputError, match=r"34, 99.*expected 0\.\.33, 255"):
        CITYSCAPES.encode(np.array([[7, 34], [99, 0]], np.uint8))


def test_decode_is_the_inverse_of_encode() -> None:
    train_ids = np.arange(19, dtype=np.uint8)
    assert CITYSCAPES.encode(CITYSCAPES.decode(train_ids)).tolist() == train_ids.tolist()


def test_void_decodes_to_unlabelled() -> None:
    assert CITYSCAPES.decode(np.array([255], np.uint8)).tolist() == [0]


def write(folder: Path, document: object) -> Path:
    path = folder / "classes.json"
    path.write_text(json.dumps(document))
    return path


def test_classes_json_gives_names_colours_ids_and_void(tmp_path: Path) -> None:
    classes = [{"name": "road", "color": [1, 2, 3]}, {"name": "lawn", "color": [4, 5, 6], "id": 9}]
    space = read_classes(write(tmp_path, {"void": 7, "classes": classes}))
    assert (space.names, space.ids, space.void_ids) == (("road", "lawn"), (0, 9), (7,))
    assert space.encode(np.array([0, 9, 7], np.uint8)).tolist() == [0, 1, 255]


def test_sixteen_bit_ids_are_known(tmp_path: Path) -> None:
    space = read_classes(
        write(tmp_path, {"void": 0, "classes": [{"name": n, "color": [i, 1, 1], "id": 40000 + i} for i, n in enumerate("xy")]})
    )
    assert space.encode(np.array([40000, 0, 40001], np.uint16)).tolist() == [0, 255, 1]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"classes": [{"name": "a", "color": [1, 1, 1]}, {"name": "b", "color": [1, 1, 1]}]}, "colour .* stands twice"),
        ({"classes": [{"name": "a", "color": [1, 1, 1]}, {"name": "a", "color": [2, 1, 1]}]}, "name a stands twice"),
        ({"classes": [{"name": str(n), "color": [n, n // 256, 0]} for n in range(256)]}, "names"),
        ({"classes": [{"name": "a"}]}, "'color' is missing"),
        ({"classes": []}, "names"),
        ({"classes": [{"name": "road", "color": [1, 2, 3]}]}, "one class alone"),
        (
            {"void": 0, "classes": [{"name": n, "color": [i, 1, 1]} for i, n in enumerate("ab")]},
            "id 0 is both void and the class 'a'",
        ),
        ({}, "'classes' is missing"),
        ([], "not a usable"),
        ({"classes": [{"name": "a", "color": [1, 2]}]}, "colours"),
        ({"classes": [{"name": "a", "color": [1, 2, 300]}]}, "0 to 255"),
    ],
)
def test_unusable_classes_json_is_told_in_one_line(tmp_path: Path, document: object, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as error:
        read_classes(write(tmp_path, document))
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path, {"classes": [{"name": n, "color": [i, 1, 1]} for i, n in enumerate("ab")]})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_classes(path).names == ("a", "b")


def test_255_classes_are_taken() -> None:
    names = tuple(map(str, range(255)))
    colours = tuple((n, 1, 2) for n in range(255))
    assert len(LabelSpace(name="many", names=names, ids=tuple(range(255)), colours=colours)) == 255
