"""The public PNG suite: Pillow's pixels for what is valid, a clean error for what is broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.errors import ImageError
from core.images.decode import decode_photo
from tests.support.sample_images import BROKEN, VALID, pillows


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_a_valid_one_has_its_pixels(path: Path) -> None:
    assert np.array_equal(decode_photo(path.read_bytes()), pillows(path.read_bytes()))


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_a_broken_one_is_a_clean_error(path: Path) -> None:
    with pytest.raises(ImageError) as told:
        decode_photo(path.read_bytes())
    assert told.value.code == BROKEN[path]


def test_the_suite_is_there() -> None:
    assert (len(VALID), len(BROKEN)) == (160, 14)
