"""Fixtures that many tests share: small real data sets, a checkpoint, an image and the training command line."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.checkpoints import make_checkpoint
from tests.support.cli import Cli
from training.__main__ import main
from training.synthetic.dataset import write_scene


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DDU-Net with random weights."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "random.safetensors")


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated data set in the Cityscapes layout: six training and five validation scenes of 128x64 pixels."""
    directory = tmp_path_factory.mktemp("scenes")
    for split, count in (("train", 6), ("val", 5)):
        for index in range(count):
            write_scene(directory, split, index, (64, 128), seed=0)
    return directory


@pytest.fixture
def plain_dataset(tmp_path: Path) -> Path:
    """A data set in the plain layout: three classes, void value 0, and two samples of different sizes per split."""
    rng = np.random.default_rng(0)
    directory = tmp_path / "plain"
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (directory / kind / split).mkdir(parents=True)
        for number, (height, width) in enumerate(((48, 64), (50, 70))):
            labels = cv2.resize(rng.integers(0, 4, (4, 4), np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
            image = np.stack([labels * 60, 255 - labels * 60, np.full((height, width), 99, np.uint8)], axis=2)
            cv2.imwrite(str(directory / "images" / split / f"{number}.jpg"), image)
            cv2.imwrite(str(directory / "labels" / split / f"{number}.png"), labels)
    classes = [
        {"name": "a", "color": [255, 0, 0], "id": 1},
        {"name": "b", "color": [0, 255, 0], "id": 2},
        {"name": "c", "color": [0, 0, 255], "id": 3},
    ]
    (directory / "classes.json").write_text(json.dumps({"void": 0, "classes": classes}))
    return directory


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """A function that runs `python -m training ARGUMENTS` in this process: (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def rgb_image() -> np.ndarray:
    """A smooth random RGB image of 90x120 pixels, uint8."""
    rng = np.random.default_rng(7)
    return cv2.resize(rng.integers(0, 256, (9, 12, 3), np.uint8), (120, 90), interpolation=cv2.INTER_CUBIC)
