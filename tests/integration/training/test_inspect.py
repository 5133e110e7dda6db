"""Tests of `python -m training inspect`: tables, figures, problems, and what it has in common with `train`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from core.data.datasets import open_dataset
from tests.support.cli import Cli

TINY = ("--model", "ddunet", "--width", 2, "--size", 32, 64, "--batch-size", 2, "--workers", 0, "--epochs", 1)


def inspect(cli: Cli, data: Path, code: int = 0) -> tuple[dict[str, Any], str]:
    """Return the document of `inspect` and what it printed to standard error, without the tables."""
    actual, out, err = cli("inspect", "--data", data, "--json", "-")
    assert actual == code, err
    return json.loads(out), "\n".join(line for line in err.splitlines() if line.startswith(("warning", "error")))


def test_pixels_and_sizes_are_those_of_labels(plain_dataset: Path, cli: Cli) -> None:
    document, _ = inspect(cli, plain_dataset)
    for split in ("train", "val"):
        labels = [labels for _, labels in open_dataset(plain_dataset, split)]
        numbers = document["splits"][split]
        expected = {name: sum(int((label == k).sum()) for label in labels) for k, name in enumerate("abc")}
        assert (numbers["images"], numbers["pixels"]) == (2, expected)
        assert numbers["void_pixels"] == sum(int((label == 255).sum()) for label in labels)
        assert {(size["height"], size["width"]) for size in numbers["sizes"]} == {(48, 64), (50, 70)}


def test_table_names_splits_and_classes(scenes: Path, cli: Cli) -> None:
    code, out, _ = cli("inspect", "--data", scenes)
    assert code == 0
    assert "train               6         0  128x64 (6)" in out and "val                 5         0  128x64 (5)" in out
    assert "\nroad " in out and "\nmotorcycle " in out


def test_figures_are_written(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("inspect", "--data", scenes, "--out", tmp_path / "figures")[0] == 0
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"class-fractions.png", "train.png", "val.png"}
    for path in (tmp_path / "figures").iterdir():
        with Image.open(path) as image:
            assert min(image.size) > 300


def test_every_unusable_file_is_reported(plain_dataset: Path, cli: Cli) -> None:
    (plain_dataset / "images" / "train" / "0.jpg").write_bytes(b"\xff\xd8\xff")
    (plain_dataset / "labels" / "val" / "1.png").unlink()
    document, err = inspect(cli, plain_dataset, code=2)
    assert "0.jpg: the image is damaged" in err and "1.jpg has no label" in err
    assert [len(document["splits"][split]["problems"]) for split in ("train", "val")] == [1, 1]


def test_split_without_labels_does_not_hide_others(plain_dataset: Path, cli: Cli) -> None:
    shutil.copytree(plain_dataset / "images" / "val", plain_dataset / "images" / "test")
    document, err = inspect(cli, plain_dataset, code=2)
    assert "no labels in" in err and document["splits"]["train"]["images"] == 2


def test_mask_of_0_and_255_is_refused_as_by_train(plain_dataset: Path, tmp_path: Path, cli: Cli) -> None:
    classes = [{"name": "background", "color": "#000000"}, {"name": "object", "color": "#ffffff"}]
    (plain_dataset / "classes.json").write_text(json.dumps({"classes": classes}))
    for path in (plain_dataset / "labels").rglob("*.png"):
        height, width = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).shape
        cv2.imwrite(str(path), np.eye(height, width, dtype=np.uint8) * 255)
    message = "all labeled pixels of train are 'background'; no pixel is 'object'. The value 255 in a label file is void"
    assert message in inspect(cli, plain_dataset, code=2)[1]
    code, _, err = cli("train", "--data", plain_dataset, "--run", tmp_path / "r", *TINY)
    assert code == 2 and message in err


@pytest.mark.parametrize("quality", [95, 50])
def test_images_that_look_the_same_in_two_splits_are_reported(scenes: Path, tmp_path: Path, cli: Cli, quality: int) -> None:
    data = Path(shutil.copytree(scenes, tmp_path / "data"))
    source = next((data / "leftImg8bit" / "train").rglob("*.png"))
    target = next((data / "leftImg8bit" / "val").rglob("*.png"))
    Image.open(source).save(target.with_suffix(".jpg"), quality=quality)
    target.unlink()
    _, err = inspect(cli, data)
    assert "1 images of val look like images of train" in err and source.name in err


def test_unknown_directory_is_reported(tmp_path: Path, cli: Cli) -> None:
    code, _, err = cli("inspect", "--data", tmp_path / "nowhere")
    assert code == 2 and "no such data directory" in err


def test_several_datasets_are_compared(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    other = Path(shutil.copytree(scenes, tmp_path / "other"))
    code, out, err = cli("inspect", "--data", scenes, other, "--out", tmp_path / "figures", "--json", tmp_path / "x.json")
    names = [f"{directory.name}/{split}" for directory in (scenes, other) for split in ("train", "val")]
    assert code == 0 and all(name in out for name in names)
    assert list(json.loads((tmp_path / "x.json").read_text())["splits"]) == names
    assert f"5 images of other/val look like images of {scenes.name}/val" in err
    figures = {path.relative_to(tmp_path / "figures").as_posix() for path in (tmp_path / "figures").rglob("*.png")}
    assert figures == {"class-fractions.png", *(f"{name}.png" for name in names)}


def test_dataset_with_other_classes_is_refused_as_by_train(scenes: Path, plain_dataset: Path, tmp_path: Path, cli: Cli) -> None:
    code, _, err = cli("inspect", "--data", scenes, plain_dataset)
    message = "plain: the first data directory has no class 'a', 'b', 'c'"
    assert code == 2 and message in err
    code, _, err = cli("train", "--data", scenes, plain_dataset, "--run", tmp_path / "r", *TINY)
    assert code == 2 and message in err
