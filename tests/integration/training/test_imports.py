"""Tests of what commands import: `--help` needs no libraries, and bundled models run without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.paths import ROOT
from training.__main__ import COMMANDS

PROGRAM = """
import sys
for package in {packages}:
    sys.modules[package] = None  # importing it raises ModuleNotFoundError
from training.__main__ import main
sys.exit(main({arguments}))
"""


def run_without(packages: tuple[str, ...], *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `python -m training ARGUMENTS` in a process that can't import the given packages."""
    program = PROGRAM.format(packages=packages, arguments=[str(argument) for argument in arguments])
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_needs_no_libraries(command: str) -> None:
    heavy = ("torch", "numpy", "cv2", "PIL", "openvino", "matplotlib", "tqdm")
    completed = run_without(heavy, *filter(None, [command]), "--help")
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.startswith(f"usage: python -m training {command or '['}")


def test_predict_runs_exported_model_without_torch(tmp_path: Path, rgb_image: np.ndarray) -> None:
    Image.fromarray(rgb_image).save(tmp_path / "street.png")
    flags = ("--device", "cpu", "--out", tmp_path / "masks", "--overlay", "--json", tmp_path / "masks.json")
    completed = run_without(("torch",), "predict", "ddunet", tmp_path / "street.png", *flags)
    assert completed.returncode == 0, completed.stderr
    assert json.loads((tmp_path / "masks.json").read_text())["backend"] == "openvino-int8"
    assert np.asarray(Image.open(tmp_path / "masks" / "street.png")).shape == rgb_image.shape[:2]
    assert (tmp_path / "masks" / "street_overlay.png").is_file()


def test_evaluate_runs_exported_model_without_torch(scenes: Path, tmp_path: Path) -> None:
    flags = ("--device", "cpu", "--data", scenes, "--json", tmp_path / "report.json")
    completed = run_without(("torch",), "evaluate", "ddunet", *flags)
    assert completed.returncode == 0, completed.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["checkpoint"]["backend"] == "openvino-int8" and report["data"]["images"] == 5


def test_checkpoint_without_export_needs_torch(checkpoint: Path, tmp_path: Path, rgb_image: np.ndarray) -> None:
    Image.fromarray(rgb_image).save(tmp_path / "street.png")
    completed = run_without(("torch",), "predict", checkpoint, tmp_path / "street.png", "--out", tmp_path / "masks")
    assert completed.returncode == 2 and completed.stderr.startswith("error: ") and "torch is not installed" in completed.stderr
    assert completed.stderr.count("\n") == 1


def test_train_without_torch_fails_with_one_line(scenes: Path, tmp_path: Path) -> None:
    completed = run_without(("torch",), "train", "--model", "ddunet", "--data", scenes, "--run", tmp_path / "run")
    assert completed.returncode == 1 and "torch is not installed" in completed.stderr and completed.stderr.count("\n") == 1
