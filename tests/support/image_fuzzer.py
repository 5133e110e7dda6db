"""Fuzz the image decoder: mutated image files must decode or raise ImageError, without leaking memory.

python -m tests.support.image_fuzzer COUNT [SEED]      prints how many mutations had which outcome
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from core.errors import ImageError
from core.images.decode import decode_reduced
from tests.support.sample_images import encode_image, rotated_image, secret_png

SEED_IMAGES = [
    encode_image(),
    secret_png(),
    encode_image("JPEG"),
    encode_image("JPEG", progressive=True),
    rotated_image(6, quality=100),
    encode_image("WEBP"),
    encode_image("WEBP", lossless=True),
    rotated_image(3, "PNG"),
    rotated_image(8, "WEBP"),
]
EXPECTED_ERRORS = {"unsupported_image_format", "corrupt_image", "too_large", "animated_image"}
MAX_MEMORY_GROWTH = 50e6  # bytes
Mutation = Callable[[bytearray, np.random.Generator], None]


def _random_offset(data: bytearray, rng: np.random.Generator) -> int:
    # Half of the mutations hit the header, where a change has the largest effect.
    return int(rng.integers(min(len(data), 100) if rng.random() < 0.5 else len(data)))


def _flip_bit(data: bytearray, rng: np.random.Generator) -> None:
    data[_random_offset(data, rng)] ^= 1 << int(rng.integers(8))


def _overwrite(data: bytearray, rng: np.random.Generator) -> None:
    start = _random_offset(data, rng)
    value = [b"\0", b"\xff", b"\x7f", rng.bytes(1)][int(rng.integers(4))]
    for offset in range(start, min(len(data), start + int(rng.integers(1, 9)))):
        data[offset] = value[0]


def _delete(data: bytearray, rng: np.random.Generator) -> None:
    start = _random_offset(data, rng)
    del data[start : start + int(rng.integers(1, 50))]


def _insert(data: bytearray, rng: np.random.Generator) -> None:
    start = _random_offset(data, rng)
    data[start:start] = rng.bytes(int(rng.integers(1, 50)))


def _duplicate(data: bytearray, rng: np.random.Generator) -> None:
    start, length = _random_offset(data, rng), int(rng.integers(1, 200))
    data[start:start] = data[start : start + length] * int(rng.integers(1, 4))


def _truncate(data: bytearray, rng: np.random.Generator) -> None:
    del data[_random_offset(data, rng) :]


# Bit flips are listed twice to make them twice as likely.
MUTATIONS: list[Mutation] = [_flip_bit, _flip_bit, _overwrite, _delete, _insert, _duplicate, _truncate]


def mutate_image(rng: np.random.Generator) -> bytes:
    """Return a valid image file after one to four random mutations."""
    data = bytearray(SEED_IMAGES[int(rng.integers(len(SEED_IMAGES)))])
    for _ in range(int(rng.integers(1, 5))):
        if data:
            MUTATIONS[int(rng.integers(len(MUTATIONS)))](data, rng)
    return bytes(data)


def run_fuzzer(count: int, seed: int = 0) -> tuple[Counter[str], float]:
    """Decode `count` mutated images, JPEGs at one of their four sizes.

    Returns:
        The number of images per outcome ("decoded" or an error code), and the growth of the process in bytes after the
        first tenth of the images.
    """
    rng, outcomes = np.random.default_rng(seed), Counter[str]()
    memory_before = 0.0
    for number in range(count):
        try:
            factor = 2 ** int(rng.integers(4))
            rgb, size = decode_reduced(mutate_image(rng), lambda h, w, f=factor: (h // f, w // f), max_pixels=1_000_000)
            assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3 and rgb.size
            # Each side is rounded up after both were reduced by one factor, at most by the one that was requested.
            assert all(side >= original // factor for side, original in zip(rgb.shape[:2], size, strict=True))
            assert any(rgb.shape[:2] == tuple(-(-side // f) for side in size) for f in (1, 2, 4, 8))
            outcomes["decoded"] += 1
        except ImageError as error:
            outcomes[error.code] += 1
        if number == count // 10:
            memory_before = resident_bytes()
    return outcomes, resident_bytes() - memory_before


def resident_bytes() -> float:
    """Return the resident memory of this process, after malloc has returned its free memory to the system."""
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    return float(psutil.Process().memory_info().rss)


def main(count: int = 20_000, seed: int = 0) -> int:
    """Run the fuzzer, print its outcomes, and return 0 if all were expected."""
    with Path(os.devnull).open("w") as devnull:  # native decoders print a line for each fault that they find
        stderr_copy = os.dup(2)
        os.dup2(devnull.fileno(), 2)
        try:
            outcomes, growth = run_fuzzer(count, seed)
        finally:
            os.dup2(stderr_copy, 2)
            os.close(stderr_copy)
    print(f"{count} mutated images: {dict(outcomes.most_common())}; memory {growth / 1e6:+.1f} MB", flush=True)
    return 0 if set(outcomes) <= {"decoded", *EXPECTED_ERRORS} and growth < MAX_MEMORY_GROWTH else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
