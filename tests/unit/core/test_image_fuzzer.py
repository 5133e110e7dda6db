"""Mutations of good pictures, in a process of their own, which a decoder could take down."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_whatever_is_done_to_a_picture_it_decodes_or_is_a_clean_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.image_fuzzer", "20000"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
