"""Tests of the commands in a virtual environment without torch: the locked requirements of the CPU service."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.commands import run
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new virtual environment with `requirements-serve-cpu.txt`."""
    venv = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", venv)
    pip = (venv / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--require-hashes", "-r", ROOT / "requirements-serve-cpu.txt")
    return venv / "bin" / "python"


def test_environment_has_no_torch(python: Path) -> None:
    completed = run(python, "-c", "import torch", check=False)
    assert "No module named 'torch'" in completed.stderr


def test_predict_writes_mask(python: Path, tmp_path: Path) -> None:
    run(python, "-m", "training", "predict", "ddunet", "docs/street.jpg", "--out", tmp_path, cwd=ROOT)
    assert (tmp_path / "street.png").is_file()


def test_evaluate_writes_report(python: Path, scenes: Path, tmp_path: Path) -> None:
    run(python, "-m", "training", "evaluate", "ddunet", "--data", scenes, "--json", tmp_path / "report.json", cwd=ROOT)
    assert json.loads((tmp_path / "report.json").read_text())["checkpoint"]["backend"] == "openvino-int8"
