"""The Segmenter: three steps, the same bits however they are asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.errors import CheckpointError, InputError
from core.inference.segmenter import Segmenter
from tests.conftest import make_checkpoint

SIZES = [(90, 120), (64, 64), (120, 90), (90, 120), (1, 1), (7, 300)]


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]


@pytest.mark.parametrize("name", ["unet", "r2unet", "ddunet"])
def test_a_call_is_the_composition_of_the_three_steps(tmp_path: Path, photos: list[np.ndarray], name: str) -> None:
    segmenter = Segmenter(make_checkpoint(tmp_path / "c.safetensors", name))
    rgb = photos[0]
    logits = segmenter.forward(segmenter.prepare(rgb)[None])[0]
    assert np.array_equal(segmenter(rgb), segmenter.label(logits, rgb.shape[:2]))


def test_every_photograph_gets_a_label_map_of_its_own_size(checkpoint: Path, photos: list[np.ndarray]) -> None:
    maps = Segmenter(checkpoint).many(photos)
    assert [m.shape for m in maps] == SIZES
    assert all(m.dtype == np.uint8 and m.max() < 19 for m in maps)


@pytest.mark.parametrize("name", ["unet", "r2unet", "ddunet"])
def test_logits_have_the_same_bits_in_any_batch(tmp_path: Path, photos: list[np.ndarray], name: str) -> None:
    segmenter = Segmenter(make_checkpoint(tmp_path / "c.safetensors", name))
    together = segmenter.logits([segmenter.prepare(rgb) for rgb in photos])
    assert all(
        np.array_equal(x, segmenter.logits([segmenter.prepare(rgb)])[0]) for x, rgb in zip(together, photos, strict=True)
    )


def test_logits_have_the_same_bits_whatever_the_environment_says_of_threads(checkpoint: Path) -> None:
    program = (
        "import hashlib, numpy as np; from core.inference.segmenter import Segmenter;"
        " rgb = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8);"
        f" s = Segmenter({str(checkpoint)!r});"
        " print(hashlib.sha256(s.forward(s.prepare(rgb)[None])[0].tobytes()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program], env={"OMP_NUM_THREADS": n, "PATH": ""}, capture_output=True, check=True
        ).stdout
        for n in ("1", "2", "3")
    }
    assert len(digests) == 1


def test_unknown_device_lists_what_is_there(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="no device 'tpu'; on this machine: auto, cpu"):
        Segmenter(checkpoint, device="tpu")


def test_unknown_back_end_lists_the_known(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="known: auto, torch"):
        Segmenter(checkpoint, backend="abacus")


def test_no_such_checkpoint_says_what_is_expected() -> None:
    with pytest.raises(CheckpointError, match=r"nowhere: no such checkpoint; expected a \.safetensors file, a run folder"):
        Segmenter("nowhere")
