"""Tests of `import core`: the public names, which are imported on first use."""

from __future__ import annotations

import subprocess
import sys

import pytest

import core
from core.inference.segmenter import Segmenter
from tests.support.paths import ROOT


def test_public_names_are_imported_on_use() -> None:
    assert set(core.__all__) == {"Segmenter", "SegmentationResult", "__version__"}
    assert core.Segmenter is Segmenter
    with pytest.raises(AttributeError, match="nothing"):
        _ = core.nothing


def test_import_does_not_load_numpy() -> None:
    program = "import sys, core; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, cwd=ROOT).returncode == 0
