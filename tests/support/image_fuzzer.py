"""Good pictures with something done to their bytes, through the decoder: a picture or one clean error, and no memory kept.

python -m tests.support.image_fuzzer COUNT [SEED]      prints how many ended how
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
from core.images.decode import decode_photo
from tests.support.sample_images import encoded, secret_png, turned

GOOD = [
    encoded(),
    secret_png(),
    encoded("JPEG"),
    encoded("JPEG", progressive=True),
    turned(6, quality=100),
    encoded("WEBP"),
    encoded("WEBP", lossless=True),
    turned(3, "PNG"),
    turned(8, "WEBP"),
]
CODES = {"not_an_image", "broken_image", "too_large", "animated_image"}
GROWTH = 50e6  # bytes, at most
Mutation = Callable[[bytearray, np.random.Generator], None]


def _place(data: bytearray, rng: np.random.Generator) -> int:
    # half of them in the header, where they do most
    return int(rng.integers(min(len(data), 100) if rng.random() < 0.5 else len(data)))


def _flip(data: bytearray, rng: np.random.Generator) -> None:
    data[_place(data, rng)] ^= 1 << int(rng.integers(8))


def _overwrite(data: bytearray, rng: np.random.Generator) -> None:
    place = _place(data, rng)
    value = [b"\0", b"\xff", b"\x7f", rng.bytes(1)][int(rng.integers(4))]
    for at in range(place, min(len(data), place + int(rng.integers(1, 9)))):
        data[at] = value[0]


def _cut(data: bytearray, rng: np.random.Generator) -> None:
    place = _place(data, rng)
    del data[place : place + int(rng.integers(1, 50))]


def _insert(data: bytearray, rng: np.random.Generator) -> None:
    place = _place(data, rng)
    data[place:place] = rng.bytes(int(rng.integers(1, 50)))


def _repeat(data: bytearray, rng: np.random.Generator) -> None:
    place, length = _place(data, rng), int(rng.integers(1, 200))
    data[place:place] = data[place : place + length] * int(rng.integers(1, 4))


def _end(data: bytearray, rng: np.random.Generator) -> None:
    del data[_place(data, rng) :]


MUTATIONS: list[Mutation] = [_flip, _flip, _overwrite, _cut, _insert, _repeat, _end]


def mutated(rng: np.random.Generator) -> bytes:
    """A good picture after one to four mutations."""
    data = bytearray(GOOD[int(rng.integers(len(GOOD)))])
    for _ in range(int(rng.integers(1, 5))):
        if data:
            MUTATIONS[int(rng.integers(len(MUTATIONS)))](data, rng)
    return bytes(data)


def run(count: int, seed: int = 0) -> tuple[Counter[str], float]:
    """How many ended how, and the bytes by which the process grew after the first tenth."""
    rng, ended = np.random.default_rng(seed), Counter[str]()
    before = 0.0
    for number in range(count):
        try:
            rgb = decode_photo(mutated(rng), max_pixels=1_000_000)
            assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3 and rgb.size
            ended["decoded"] += 1
        except ImageError as error:
            ended[error.code] += 1
        if number == count // 10:
            before = held()
    return ended, held() - before


def held() -> float:
    """Resident bytes, without those that malloc keeps for what comes next."""
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    return float(psutil.Process().memory_info().rss)


def main(count: int = 20_000, seed: int = 0) -> int:
    with Path(os.devnull).open("w") as nowhere:  # decoders write a line for each thing that they find wrong
        told = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            ended, grown = run(count, seed)
        finally:
            os.dup2(told, 2)
    print(f"{count} mutations: {dict(ended.most_common())}; memory {grown / 1e6:+.1f} MB", flush=True)
    return 0 if set(ended) <= {"decoded", *CODES} and grown < GROWTH else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
