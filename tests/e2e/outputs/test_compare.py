"""Tests of `python -m training compare`: scores against reference computations, report pages, and usage errors."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchmetrics.classification import MulticlassCalibrationError

from core.checkpoints.checkpoint import TrainingStage, read_checkpoint, write_checkpoint
from core.data.datasets import open_dataset
from core.data.labels import IGNORE_INDEX
from core.evaluation import metrics
from core.evaluation.report import ScoringProtocol
from core.inference.segmenter import Segmenter
from core.models import build_model
from tests.support.checkpoints import make_checkpoint
from tests.support.cli import Cli, usage_error
from tests.support.sample_images import replace_by_noise
from training.__main__ import main
from training.comparison.costs import training_speeds
from training.comparison.counting import count_all
from training.comparison.figures import scored_prediction
from training.comparison.models import group_by_recipe, open_models
from training.comparison.schema import Comparison
from training.comparison.summary import MeasuredCost, summarize
from training.comparison.text import has_ungrouped_pairs
from training.config import TrainConfig
from training.export.openvino import export_fp32

TINY = ("--width", 2, "--size", 32, 64, "--batch-size", 2, "--workers", 0, "--epochs", 2)
NAMES = ("unet", "ddunet")


@pytest.fixture(scope="module")
def runs(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of two finished runs."""
    directory = tmp_path_factory.mktemp("runs")
    for name in NAMES:
        assert main([str(a) for a in ("train", "--model", name, "--data", scenes, "--run", directory / name, *TINY)]) == 0
    return directory


@pytest.fixture(scope="module")
def page(runs: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report directory that `compare` writes for the two runs."""
    out = tmp_path_factory.mktemp("comparison") / "report"
    arguments = ("compare", *(runs / name for name in NAMES), "--data", scenes, "--out", out, "--training-steps", 1)
    assert main([str(a) for a in arguments]) == 0
    return out


@pytest.fixture(scope="module")
def document(page: Path) -> dict[str, Any]:
    """The contents of report.json."""
    return json.loads((page / "report.json").read_text())


def reference_confusion(predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Count the confusion matrix of one image pixel by pixel: (19, 20), the last column for pixels without prediction."""
    confusion = np.zeros((19, 20), int)
    for label, prediction in zip(labels.ravel().tolist(), predicted.ravel().tolist(), strict=True):
        if label != IGNORE_INDEX:
            confusion[label, min(prediction, 19)] += 1
    return confusion


def reference_iou(confusion: np.ndarray, k: int) -> float:
    """Return the IoU of class k."""
    return confusion[k, k] / (confusion[k].sum() + confusion[:, k].sum() - confusion[k, k])


@pytest.mark.parametrize("index", [0, 1])
def test_scores_match_reference(document: dict[str, Any], runs: Path, scenes: Path, index: int) -> None:
    segmenter = Segmenter(runs / NAMES[index])
    confusion = sum(reference_confusion(segmenter(rgb).labels, labels) for rgb, labels in open_dataset(scenes, "val"))
    report = document["models"][index]["report"]
    total, labeled, predicted = confusion.sum(), confusion.sum(axis=1), confusion.sum(axis=0)
    assert report["confusion"] == confusion.tolist()
    assert report["scores"]["pixel_accuracy"] == pytest.approx(np.trace(confusion) / total)
    ious = [reference_iou(confusion, k) for k in range(19) if labeled[k]]
    assert report["scores"]["miou_present"] == pytest.approx(np.mean(ious))
    recalls = [confusion[k, k] / max(labeled[k], 1) for k in range(19) if labeled[k] + predicted[k]]
    assert report["scores"]["macro"]["sensitivity"] == pytest.approx(np.mean(recalls))
    true_negatives = [total - labeled[k] - predicted[k] + confusion[k, k] for k in range(19)]
    negatives = [total - labeled[k] for k in range(19)]
    assert report["scores"]["micro"]["specificity"] == pytest.approx(sum(true_negatives) / sum(negatives))


@pytest.mark.parametrize("index", [0, 1])
def test_alternative_scores_match_reference(document: dict[str, Any], runs: Path, scenes: Path, index: int) -> None:
    segmenter, confusion = Segmenter(runs / NAMES[index]), np.zeros((19, 20), int)
    for rgb, labels in open_dataset(scenes, "val"):
        logits = torch.from_numpy(segmenter.forward_batch([segmenter.preprocess_image(rgb)])[0])
        probabilities = logits.softmax(0)
        predicted = torch.where(probabilities.amax(0) > 0.5, probabilities.argmax(0), 255).numpy()
        resized = np.asarray(Image.fromarray(labels).resize(predicted.shape[::-1], Image.Resampling.NEAREST))
        confusion += reference_confusion(predicted, resized)
    alternative = document["models"][index]["alternative"]
    correct, labeled, predicted = np.trace(confusion), confusion.sum(), confusion[:, :19].sum()
    assert alternative["protocol"] == {
        "threshold": 0.5,
        "score_size": "input",
        "inference_resolution": "network",
        "hflip_tta": False,
    }
    assert alternative["confusion"] == confusion.tolist() and predicted < labeled
    assert alternative["scores"]["micro"]["iou"] == pytest.approx(correct / (labeled + predicted - correct))
    assert alternative["scores"]["micro"]["dice"] == pytest.approx(2 * correct / (labeled + predicted))


def test_calibration_error_matches_torchmetrics(document: dict[str, Any], runs: Path, scenes: Path) -> None:
    segmenter = Segmenter(runs / "unet")
    reference = MulticlassCalibrationError(19, n_bins=15, norm="l1", ignore_index=IGNORE_INDEX)
    for rgb, labels in open_dataset(scenes, "val"):
        logits = torch.from_numpy(segmenter.forward_batch([segmenter.preprocess_image(rgb)])[0])[None]
        upsampled = nn.functional.interpolate(logits, labels.shape, mode="bilinear", align_corners=False)
        reference.update(upsampled.softmax(1), torch.from_numpy(labels)[None].long())
    reliability = document["models"][0]["reliability"]
    assert reliability["ece"] == pytest.approx(float(reference.compute()), abs=1e-4)
    assert sum(b["fraction"] for b in reliability["bins"]) == pytest.approx(1)


def test_difference_of_pair_matches_scores(document: dict[str, Any]) -> None:
    first, second = (model["report"]["scores"] for model in document["models"])
    (pair,) = document["pairs"]
    assert (pair["first"], pair["second"]) == NAMES
    difference = pair["differences"]["macro_dice"]
    assert difference["value"] == pytest.approx(first["macro"]["dice"] - second["macro"]["dice"])
    low, high = difference["interval"]
    assert (low + high) / 2 == pytest.approx(difference["value"]) and high - low < 1


def test_disagreement_is_fraction_of_different_pixels(document: dict[str, Any], runs: Path, scenes: Path) -> None:
    first = next(example for example in document["examples"] if example["rule"] == "disagreement")
    rgb, labels = open_dataset(scenes, "val")[first["index"]]
    a, b = (Segmenter(runs / name)(rgb).labels for name in NAMES)
    different = sum(x != y for x, y, label in zip(a.ravel(), b.ravel(), labels.ravel(), strict=True) if label != IGNORE_INDEX)
    assert first["disagreement"] == pytest.approx(different / (labels != IGNORE_INDEX).sum())


def test_report_has_costs(document: dict[str, Any], runs: Path) -> None:
    for model in document["models"]:
        parameters = sum(p.numel() for p in build_model(model["name"], 19, 2).parameters())
        cost = model["cost"]
        assert (cost["parameters"], cost["input_size"]) == (parameters, [32, 64])
        assert cost["training_images_per_s"] > 0 and 0 < cost["median_ms"] <= cost["p95_ms"]
        assert cost["peak"]["gpu_mb"] is None and cost["peak"]["process_mb"] > 100  # torch alone needs that much


def test_page_is_self_contained(page: Path) -> None:
    text = (page / "index.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert sources and all(source.startswith("data:image/") for source in sources)
    assert "<script" not in text and "@import" not in text and "url(" not in text


def test_page_and_markdown_show_scores(page: Path, document: dict[str, Any]) -> None:
    for name in ("index.html", "report.md"):
        text = (page / name).read_text()
        for model in document["models"]:
            low, high = (100 * bound for bound in model["report"]["intervals"]["miou_present"])
            assert f"{100 * model['report']['scores']['miou_present']:.1f} ({low:.1f} to {high:.1f})" in text
        assert document["pairs"][0]["verdict"] in text
        assert "void as road" in text and "82.15" in text


def test_figures_are_written_as_png_and_svg(page: Path) -> None:
    names = {path.stem for path in (page / "figures").iterdir()}
    assert names == {
        "class_iou",
        "confusion",
        "reliability",
        "curves",
        "iou_speed",
        "iou_parameters",
        "examples",
        "disagreement",
    }
    for name in names:
        with Image.open(page / "figures" / f"{name}.png") as image:
            assert min(image.size) > 300
        assert ElementTree.parse(page / "figures" / f"{name}.svg").getroot().tag.endswith("svg")
    links = re.findall(r"\]\((.*?)\)", (page / "report.md").read_text())
    assert {f"figures/{name}.png" for name in names} == set(links)


@pytest.fixture(scope="module")
def single_page(checkpoint: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report directory for one checkpoint without a run, with another threshold; it had a figure of other curves."""
    out = tmp_path_factory.mktemp("single")
    (out / "figures").mkdir()
    (out / "figures" / "curves.png").write_bytes(b"from an earlier comparison")
    flags = ("--threshold", 0.9, "--score-at", "label", "--training-steps", 0)
    assert main([str(a) for a in ("compare", checkpoint, "--data", scenes, "--out", out, *flags)]) == 0
    return out


def test_single_checkpoint_has_nothing_to_compare_with(single_page: Path) -> None:
    assert "nothing to compare it with" in (single_page / "index.html").read_text()


def test_checkpoint_without_run_has_no_curves(single_page: Path) -> None:
    assert not (single_page / "figures" / "curves.png").exists()


def test_other_threshold_is_named(single_page: Path) -> None:
    text = (single_page / "index.html").read_text()
    assert "random, softmax &gt; 0.9" in text and "82.15" not in text


def test_example_masks_are_those_that_were_scored(plain_dataset: Path, tmp_path: Path) -> None:
    """The images are JPEGs, which are reduced for the network."""
    dataset = open_dataset(plain_dataset, "val")
    replace_by_noise(image for image, _ in dataset.pairs)
    path = make_checkpoint(tmp_path / "c.safetensors", labels=dataset.labels, seed=1, size=(16, 16), resize="stretch")
    models = open_models([str(path)], "cpu", "torch")
    (counts,), _ = count_all(models, dataset, ScoringProtocol(threshold=0.5, score_size="input"))
    masks = [scored_prediction(models[0], dataset, index) for index in range(len(dataset))]
    confusion = sum(metrics.confusion_matrix(dataset[index][1], mask, 3) for index, mask in enumerate(masks))
    assert np.array_equal(confusion, counts.default.confusion)


def make_trained_checkpoint(path: Path, name: str, seed: int) -> Path:
    """Write a checkpoint whose metadata describes a training stage with the given seed."""
    source = read_checkpoint(make_checkpoint(path, name, seed=seed))
    command = TrainConfig(model=name, data="x", seed=seed, width=4 if name == "unet" else 64).command
    stage = TrainingStage(command=command, data="x", images=1, seed=seed, epochs=1)
    write_checkpoint(path, source.metadata.model_copy(update={"stages": (stage,)}), source.tensors)
    return path


def summarize_files(files: Sequence[Path], scenes: Path) -> Comparison:
    """Compare checkpoints on the validation scenes without a page, figures, and measured costs."""
    models, dataset = open_models([str(file) for file in files], "cpu", "auto"), open_dataset(scenes, "val")
    protocol = ScoringProtocol(threshold=0.5, score_size="input")
    counts, disagreement = count_all(models, dataset, protocol)
    return summarize(models, dataset, counts, disagreement, [MeasuredCost(None, None)] * len(models), protocol, "compare")


def test_three_seeds_per_architecture_are_compared_as_group(scenes: Path, tmp_path: Path) -> None:
    files = [
        make_trained_checkpoint(tmp_path / f"{name}-{seed}.safetensors", name, seed) for name in NAMES for seed in range(3)
    ]
    comparison = summarize_files(files, scenes)
    assert comparison.architectures == {
        "unet of width 4": ["unet-0", "unet-1", "unet-2"], "ddunet of width 4": ["ddunet-0", "ddunet-1", "ddunet-2"],
    }  # fmt: skip
    (pair,) = comparison.architecture_pairs
    means = [np.mean([m.report.scores.pixel_accuracy for m in comparison.models if m.architecture == a]) for a in NAMES]
    assert pair.differences["pixel_accuracy"].value == pytest.approx(means[0] - means[1])


def test_repeated_seed_does_not_count_for_group(tmp_path: Path) -> None:
    files = [make_trained_checkpoint(tmp_path / f"unet-{n}.safetensors", "unet", seed) for n, seed in enumerate((1, 1, 2))]
    assert group_by_recipe(open_models([str(f) for f in files], "cpu", "auto")) == {}


def test_empty_history_value_and_special_characters_in_name(runs: Path, scenes: Path, tmp_path: Path, cli: Cli) -> None:
    shutil.copytree(runs / "unet", tmp_path / "_run $x$ |<b>")
    table = tmp_path / "_run $x$ |<b>" / "history.csv"
    names, *rows = table.read_text().splitlines()
    column = names.split(",").index("val_loss")
    cells = [row.split(",") for row in rows]
    table.write_text("\n".join([names, *(",".join([*c[:column], "", *c[column + 1 :]]) for c in cells)]) + "\n")
    out = tmp_path / "out"
    code, _, err = cli("compare", table.parent, "--data", scenes, "--out", out, "--training-steps", 0)
    assert code == 0, err
    assert "_run $x$ |&lt;b&gt;" in (out / "index.html").read_text()
    assert "| _run $x$ \\|&lt;b> |" in (out / "report.md").read_text()


@pytest.mark.parametrize(("first", "second", "groups"), [
    ("", "", 1),
    (" --learning-rate 0.002", "", 0),  # three recipes with one seed each
    ("", " --init runs/{}/checkpoints/best.safetensors --learning-rate 0.0005 --seed {}", 1),
    ("", " --init a --learning-rate 0.00{}", 0),
])  # fmt: skip
def test_seeds_of_one_recipe_form_group(tmp_path: Path, first: str, second: str, groups: int) -> None:
    for seed in (1, 2, 3):
        path = tmp_path / f"unet-{seed}.safetensors"
        source = read_checkpoint(make_checkpoint(path, "unet", seed=seed))
        commands = [f"python -m training train --model unet --data x --seed {seed}{first and first + str(seed)}"]
        commands += ["python -m training train --model unet --data x" + second.format(seed, seed)] * bool(second)
        stages = tuple(TrainingStage(command=command, data="x", images=1, seed=seed, epochs=1) for command in commands)
        write_checkpoint(path, source.metadata.model_copy(update={"stages": stages}), source.tensors)
    files = [str(path) for path in sorted(tmp_path.glob("*.safetensors"))]
    assert len(group_by_recipe(open_models(files, "cpu", "auto"))) == groups


def test_same_checkpoint_with_two_names_has_equal_scores(checkpoint: Path, scenes: Path, tmp_path: Path) -> None:
    shutil.copy(checkpoint, tmp_path / "copy.safetensors")
    comparison = summarize_files([checkpoint, tmp_path / "copy.safetensors"], scenes)
    assert [pair.verdict for pair in comparison.pairs] == ["random and copy score the same on every image."]
    assert has_ungrouped_pairs(comparison)


def test_recipe_does_not_depend_on_seed_or_architecture(tmp_path: Path) -> None:
    files = [
        make_trained_checkpoint(tmp_path / f"{name}-{seed}.safetensors", name, seed) for name in NAMES for seed in range(3)
    ]
    assert len({c.recipe for c in open_models([str(f) for f in files], "cpu", "auto")}) == 1


def test_all_models_run_on_one_backend(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    """`auto` must not choose an exported model that only one of the two checkpoints has."""
    files = [make_checkpoint(tmp_path / f"{name}.safetensors", name) for name in NAMES]
    export_fp32(read_checkpoint(files[0]), None)
    assert Segmenter(files[0], "cpu").backend.name == "openvino-fp32"
    flags = ("--data", scenes, "--out", tmp_path / "out", "--training-steps", 0)
    assert cli("compare", *files, *flags)[0] == 0
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {model["report"]["checkpoint"]["backend"] for model in document["models"]} == {"torch"}
    assert document["environment"]["backend"] == "torch"
    for name in ("index.html", "report.md"):
        assert "All models ran on the back end torch." in (tmp_path / "out" / name).read_text()
    export_fp32(read_checkpoint(files[1]), None)
    models = open_models([str(file) for file in files], "cpu", "auto")
    assert {model.segmenter.backend.name for model in models} == {"openvino-fp32"}


def test_zero_training_steps_skip_training(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.comparison.costs._training", None)
    assert training_speeds(open_models([str(checkpoint)], "cpu", "auto"), torch.device("cpu"), 0) == [None]


class TestUsageErrors:
    """Each mistake is reported with exit code 2 and one line."""

    def test_run_without_checkpoints(self, scenes: Path, tmp_path: Path, cli: Cli) -> None:
        (tmp_path / "run").mkdir()
        err = usage_error(cli, "compare", tmp_path / "run", "--data", scenes, "--out", tmp_path / "out")
        assert "run" in err and "best.safetensors" in err

    def test_models_with_different_classes(
        self, checkpoint: Path, plain_dataset: Path, scenes: Path, tmp_path: Path, cli: Cli
    ) -> None:
        other = make_checkpoint(tmp_path / "other.safetensors", labels=open_dataset(plain_dataset, "val").labels)
        err = usage_error(cli, "compare", checkpoint, other, "--data", scenes, "--out", tmp_path / "out")
        assert "class 0 is 'road' in one and 'a' in the other" in err

    def test_data_with_other_classes(self, checkpoint: Path, plain_dataset: Path, tmp_path: Path, cli: Cli) -> None:
        assert "19 classes" in usage_error(cli, "compare", checkpoint, "--data", plain_dataset, "--out", tmp_path / "out")

    def test_empty_split(self, checkpoint: Path, plain_dataset: Path, tmp_path: Path, cli: Cli) -> None:
        (plain_dataset / "images" / "test").mkdir()
        flags = ("--data", plain_dataset, "--split", "test", "--out", tmp_path / "out")
        assert "'test' has no images" in usage_error(cli, "compare", checkpoint, *flags)

    def test_missing_split(self, checkpoint: Path, scenes: Path, tmp_path: Path, cli: Cli) -> None:
        flags = ("--data", scenes, "--split", "test", "--out", tmp_path / "out")
        assert "found: train, val" in usage_error(cli, "compare", checkpoint, *flags)

    def test_two_checkpoints_with_same_name(self, checkpoint: Path, scenes: Path, tmp_path: Path, cli: Cli) -> None:
        other = make_checkpoint(tmp_path / checkpoint.name)
        err = usage_error(cli, "compare", checkpoint, other, "--data", scenes, "--out", tmp_path / "out")
        assert str(checkpoint) in err and str(other) in err

    def test_checkpoint_given_twice(self, checkpoint: Path, scenes: Path, tmp_path: Path, cli: Cli) -> None:
        assert "given twice" in usage_error(cli, "compare", checkpoint, checkpoint, "--data", scenes, "--out", tmp_path / "out")

    def test_other_index_html_in_output_directory(self, checkpoint: Path, scenes: Path, tmp_path: Path, cli: Cli) -> None:
        (tmp_path / "index.html").write_text("another page")
        assert "another index.html" in usage_error(cli, "compare", checkpoint, "--data", scenes, "--out", tmp_path)

    def test_output_directory_is_a_file(self, checkpoint: Path, scenes: Path, cli: Cli) -> None:
        assert "--out" in usage_error(cli, "compare", checkpoint, "--data", scenes, "--out", checkpoint)
