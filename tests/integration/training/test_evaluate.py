"""Tests of `python -m training evaluate` against scores of the training run and confusion matrices counted here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.datasets import open_dataset
from core.evaluation import metrics
from core.inference.options import InferenceOptions
from core.inference.segmenter import Segmenter
from tests.support.cli import Cli
from tests.support.runs import read_history


def test_evaluate_repeats_score_of_training(finished_run: Path, scenes: Path, tmp_path: Path, cli: Cli) -> None:
    last = finished_run / "checkpoints" / "last.safetensors"
    code, out, _ = cli("evaluate", last, "--data", scenes, "--json", tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())
    assert code == 0
    assert report["scores"]["miou"] == pytest.approx(float(read_history(finished_run)[1]["val_miou"]), abs=1e-12)
    assert f"mIoU {report['scores']['miou']:.3f}" in out
    assert report["data"] == {"name": scenes.name, "split": "val", "images": 5}


@pytest.mark.parametrize("cache", ["none", "cache"])
def test_evaluate_repeats_score_of_training_with_reduced_jpegs(
    plain_dataset: Path, tmp_path: Path, cli: Cli, cache: str
) -> None:
    run, report = tmp_path / "run", tmp_path / "r.json"
    model = ("--model", "ddunet", "--width", 2, "--size", 16, 24, "--batch-size", 2, "--workers", 0, "--epochs", 1)
    storage = ("--cache", tmp_path / "cache") if cache == "cache" else ()
    assert cli("train", "--data", plain_dataset, "--run", run, *model, *storage)[0] == 0
    assert cli("evaluate", run, "--data", plain_dataset, "--backend", "torch", "--json", report)[0] == 0
    assert Segmenter(run).preprocess.reduce_jpeg
    scores = json.loads(report.read_text())["scores"]
    assert scores["pixel_accuracy"] == pytest.approx(float(read_history(run)[0]["val_pixel_accuracy"]), abs=1e-12)


def test_evaluate_at_native_resolution_with_flip(finished_run: Path, scenes: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "r.json"
    code, stdout, _ = cli("evaluate", finished_run, "--data", scenes, "--resolution", "native", "--flip", "--json", out)
    assert code == 0 and "at native resolution, with horizontal-flip TTA" in stdout
    report = json.loads(out.read_text())
    assert report["protocol"] == {"threshold": None, "score_size": "label", "inference_resolution": "native", "hflip_tta": True}
    segmenter, confusion = Segmenter(finished_run), np.zeros((19, 20), np.int64)
    for rgb, labels in open_dataset(scenes, "val"):
        confusion += metrics.confusion_matrix(
            labels, segmenter.predict_batch([rgb], options=InferenceOptions(tiled=True, hflip_tta=True))[0], 19
        )
    assert report["confusion"] == confusion.tolist()


def test_evaluate_with_threshold_at_input_size(finished_run: Path, scenes: Path, tmp_path: Path, cli: Cli) -> None:
    """Recompute the confusion matrix pixel by pixel: a pixel without a probability above 0.5 has no prediction."""
    flags = ("--data", scenes, "--threshold", 0.5, "--score-at", "input", "--json", tmp_path / "r.json")
    code, out, _ = cli("evaluate", finished_run, *flags)
    assert code == 0 and "(softmax > 0.5, at the network's size)" in out
    segmenter, dataset = Segmenter(finished_run), open_dataset(scenes, "val")
    expected = np.zeros((19, 20), np.int64)
    for rgb, labels in dataset:
        logits = segmenter.forward_batch([segmenter.preprocess_image(rgb)])[0]
        probabilities = torch.from_numpy(logits).softmax(0).numpy()
        resized = np.asarray(Image.fromarray(labels).resize(logits.shape[:0:-1], Image.Resampling.NEAREST))
        for y, x in np.argwhere(resized != 255):
            above = np.flatnonzero(probabilities[:, y, x] > 0.5)
            expected[resized[y, x], above[0] if above.size else 19] += 1
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["confusion"] == expected.tolist() and expected[:, 19].any()
    assert report["protocol"] == {
        "threshold": 0.5,
        "score_size": "input",
        "inference_resolution": "network",
        "hflip_tta": False,
    }


def test_split_without_labeled_pixels_has_no_scores(checkpoint: Path, scenes: Path, tmp_path: Path, cli: Cli) -> None:
    data = Path(shutil.copytree(scenes, tmp_path / "data"))
    for path in (data / "gtFine" / "val").rglob("*.png"):
        Image.fromarray(np.zeros((64, 128), np.uint8)).save(path)
    code, out, err = cli("evaluate", checkpoint, "--data", data)
    assert code == 2 and "every pixel of every label is void" in err and not out
