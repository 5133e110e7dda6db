"""Small real objects that many tests share: generated data sets, a checkpoint, and the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from core.backends.torch_cpu import to_tensors
from core.checkpoints.checkpoint import Architecture, Card, write_checkpoint
from core.data.labels import CITYSCAPES, LabelSpace
from core.images.resize import Preprocess
from core.models import build_model
from training.__main__ import main
from training.commands.synthesize import write_scene

Cli = Callable[..., tuple[int, str, str]]


def make_checkpoint(
    path: Path,
    name: str = "ddunet",
    width: int = 4,
    labels: LabelSpace = CITYSCAPES,
    seed: int = 0,
    size: tuple[int, int] = (64, 64),
) -> Path:
    """A checkpoint of random weights and batch norm statistics, so that every part of the network matters."""
    torch.manual_seed(seed)
    network = build_model(name, len(labels), width)
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(2, 3, 64, 64))
    card = Card(
        architecture=Architecture(name=name, width=width),
        labels=labels,
        preprocess=Preprocess(mode="fit", size=size, stride=network.stride),
        data="random",
        epoch=0,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(path, card, to_tensors(network))
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "random.safetensors")


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training and five validation scenes in Cityscapes layout."""
    folder = tmp_path_factory.mktemp("scenes")
    for split, count in (("train", 6), ("val", 5)):
        for index in range(count):
            write_scene(folder, split, index, (64, 128), seed=0)
    return folder


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A data set in the plain layout: three classes, 0 is void, two samples a split of different sizes."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "plain"
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for number, size in enumerate(((48, 64), (50, 70))):
            labels = cv2.resize(rng.integers(0, 4, (4, 4), np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)
            photo = np.stack([labels * 60, 255 - labels * 60, np.full(size, 99, np.uint8)], axis=2)
            cv2.imwrite(str(folder / "images" / split / f"{number}.jpg"), photo)
            cv2.imwrite(str(folder / "labels" / split / f"{number}.png"), labels)
    classes = [
        {"name": n, "color": c, "id": i} for i, n, c in ((1, "a", [255, 0, 0]), (2, "b", [0, 255, 0]), (3, "c", [0, 0, 255]))
    ]
    (folder / "classes.json").write_text(json.dumps({"void": 0, "classes": classes}))
    return folder


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs `python -m training ARGUMENTS` in this process: exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def photo() -> np.ndarray:
    """A photograph-like picture, 90x120 RGB."""
    rng = np.random.default_rng(7)
    small = rng.integers(0, 256, (9, 12, 3), np.uint8)
    return cv2.resize(small, (120, 90), interpolation=cv2.INTER_CUBIC)
