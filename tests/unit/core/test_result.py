"""Result: `from core import Segmenter`, and what a photograph's result can do."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import core
from core import Segmenter
from core.data.labels import CITYSCAPES
from core.errors import ImageError, InputError
from core.images.decode import decode_photo
from core.images.encode import overlay
from tests.support.sample_images import encoded, photo

RGB = photo()


@pytest.fixture(scope="module")
def segmenter(checkpoint: Path) -> Segmenter:
    return Segmenter(checkpoint)


@pytest.fixture
def street(tmp_path: Path) -> Path:
    path = tmp_path / "street.png"
    path.write_bytes(encoded())
    return path


@pytest.mark.parametrize("kind", ["path", "text", "bytes", "array", "picture", "strided"])
def test_a_photograph_comes_as_a_file_bytes_or_an_array(segmenter: Segmenter, street: Path, kind: str) -> None:
    given = {
        "path": street,
        "text": str(street),
        "bytes": street.read_bytes(),
        "array": RGB,
        "picture": Image.open(street),
        "strided": np.asfortranarray(RGB),
    }[kind]
    result = segmenter(given)
    assert np.array_equal(result.labels, segmenter.many([RGB])[0])
    assert np.array_equal(result.photo, RGB) and result.size == (40, 60)


@pytest.mark.parametrize("wrong", [RGB / 255, RGB[..., :1], RGB[None], RGB[..., 0], np.empty((0, 4, 3), np.uint8), 5, None])
def test_what_is_no_photograph_is_told(segmenter: Segmenter, wrong: object) -> None:
    with pytest.raises(InputError, match=r"expected a path, an encoded picture, or \(H, W, 3\) uint8"):
        segmenter(wrong)


def test_a_file_that_is_none_is_told(segmenter: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        segmenter(tmp_path / "nowhere.png")
    with pytest.raises(ImageError):
        segmenter(b"nothing")


def test_shares_are_those_of_the_labels_the_largest_first(segmenter: Segmenter) -> None:
    result = segmenter(RGB)
    assert list(result.shares.values()) == sorted(result.shares.values(), reverse=True)
    assert sum(result.shares.values()) == pytest.approx(1)
    for name, share in result.shares.items():
        assert share == result.where(name).mean() == (result.labels == CITYSCAPES.names.index(name)).mean()
    with pytest.raises(InputError, match="no class 'lawn'; known: road"):
        result.where("lawn")


def test_pictures_of_a_result(segmenter: Segmenter) -> None:
    result = segmenter(RGB)
    assert np.array_equal(result.colours(), CITYSCAPES.palette[result.labels])
    assert np.array_equal(result.overlay(0.3), overlay(RGB, result.labels, CITYSCAPES, 0.3))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(result._repr_png_()))), result.overlay())
    with pytest.raises(InputError, match="expected 0 to 1"):
        result.overlay(50)


def test_a_result_is_saved_as_mask_or_overlay(segmenter: Segmenter, tmp_path: Path) -> None:
    result = segmenter(RGB)
    assert np.array_equal(np.asarray(Image.open(result.save(tmp_path / "new" / "mask.png"))), result.labels)
    assert np.array_equal(decode_photo(result.save(str(tmp_path / "o.png"), overlay=True).read_bytes()), result.overlay())
    assert Image.open(result.save(tmp_path / "o.jpg", overlay=True)).format == "JPEG"
    with pytest.raises(InputError, match=r"ends in \.png"):
        result.save(tmp_path / "mask.jpg")


def test_numpy_takes_it_for_its_labels(segmenter: Segmenter) -> None:
    result = segmenter(RGB)
    assert np.array_equal(np.asarray(result), result.labels) and np.asarray(result, np.int64).dtype == np.int64
    assert np.array(result, copy=True) is not result.labels
    assert repr(result).startswith("<Result 60x40: ")


def test_the_public_names_are_these_and_cost_nothing_until_they_are_used() -> None:
    assert set(core.__all__) == {"Segmenter", "Result", "__version__"}
    assert core.Segmenter is Segmenter
    with pytest.raises(AttributeError, match="nothing"):
        _ = core.nothing
    program = "import sys, core; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, cwd=Path(core.__file__).parents[2]).returncode == 0
