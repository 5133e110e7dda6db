"""The comparison: its numbers against counts made by hand, its page, and what it says of models and architectures."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchmetrics.classification import MulticlassCalibrationError

from core.checkpoints.checkpoint import Architecture, Leg, read_checkpoint, write_checkpoint
from core.data.datasets import open_dataset
from core.evaluation.bootstrap import Blocks
from core.inference.segmenter import Segmenter
from core.models import build_model
from tests.conftest import make_checkpoint
from training.__main__ import main
from training.comparison.contestants import open_contestants, same_but_for_the_seed
from training.comparison.costs import training_speeds
from training.comparison.examples import choose_by_score
from training.comparison.verdicts import Difference, compare_architectures, verdict
from training.config import TrainConfig
from training.tracking.model_size import gflop

TINY = ("--width", 2, "--size", 32, 64, "--batch-size", 2, "--workers", 0, "--epochs", 2)
NAMES = ("unet", "ddunet")


@pytest.fixture(scope="module")
def runs(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two finished runs."""
    folder = tmp_path_factory.mktemp("runs")
    for name in NAMES:
        assert main([str(a) for a in ("train", "--model", name, "--data", scenes, "--run", folder / name, *TINY)]) == 0
    return folder


@pytest.fixture(scope="module")
def page(runs: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `compare` writes about them."""
    out = tmp_path_factory.mktemp("comparison") / "report"
    arguments = ("compare", *(runs / name for name in NAMES), "--data", scenes, "--out", out, "--training-steps", 1)
    assert main([str(a) for a in arguments]) == 0
    return out


@pytest.fixture(scope="module")
def document(page: Path) -> dict[str, Any]:
    return json.loads((page / "report.json").read_text())


def counted_by_hand(predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(19, 20) of one picture, pixel by pixel."""
    counts = np.zeros((19, 20), int)
    for label, answer in zip(labels.ravel().tolist(), predicted.ravel().tolist(), strict=True):
        if label != 255:
            counts[label, min(answer, 19)] += 1
    return counts


def iou_by_hand(counts: np.ndarray, k: int) -> float:
    return counts[k, k] / (counts[k].sum() + counts[:, k].sum() - counts[k, k])


@pytest.mark.parametrize("place", [0, 1])
def test_scores_are_those_counted_by_hand(document: dict[str, Any], runs: Path, scenes: Path, place: int) -> None:
    segmenter = Segmenter(runs / NAMES[place])
    counts = sum(counted_by_hand(segmenter(rgb).labels, labels) for rgb, labels in open_dataset(scenes, "val"))
    report = document["models"][place]["report"]
    held = [k for k in range(19) if counts[k].sum()]
    assert report["confusion"] == counts.tolist()
    assert report["scores"]["pixel_accuracy"] == pytest.approx(np.trace(counts) / counts.sum())
    assert report["scores"]["macro_iou_labelled"] == pytest.approx(np.mean([iou_by_hand(counts, k) for k in held]))
    recalls = [counts[k, k] / max(counts[k].sum(), 1) for k in range(19) if counts[k].sum() + counts[:, k].sum()]
    assert report["scores"]["macro"]["sensitivity"] == pytest.approx(np.mean(recalls))
    others = [counts.sum() - counts[k].sum() - counts[:, k].sum() + counts[k, k] for k in range(19)]
    negatives = [counts.sum() - counts[k].sum() for k in range(19)]
    assert report["scores"]["micro"]["specificity"] == pytest.approx(sum(others) / sum(negatives))


@pytest.mark.parametrize("place", [0, 1])
def test_the_earlier_scores_are_those_counted_by_hand(document: dict[str, Any], runs: Path, scenes: Path, place: int) -> None:
    segmenter, counts = Segmenter(runs / NAMES[place]), np.zeros((19, 20), int)
    for rgb, labels in open_dataset(scenes, "val"):
        logits = torch.from_numpy(segmenter.logits([segmenter.prepare(rgb)])[0])
        likely = logits.softmax(0)
        answer = torch.where(likely.amax(0) > 0.5, likely.argmax(0), 255).numpy()
        small = np.asarray(Image.fromarray(labels).resize(answer.shape[::-1], Image.Resampling.NEAREST))
        counts += counted_by_hand(answer, small)
    earlier = document["models"][place]["otherwise"]
    true, labelled, predicted = np.trace(counts), counts.sum(), counts[:, :19].sum()
    assert earlier["definition"] == {"threshold": 0.5, "at": "input", "resolution": "network", "flip": False}
    assert earlier["confusion"] == counts.tolist() and predicted < labelled
    assert earlier["scores"]["micro"]["iou"] == pytest.approx(true / (labelled + predicted - true))
    assert earlier["scores"]["micro"]["dice"] == pytest.approx(2 * true / (labelled + predicted))


def test_the_calibration_error_is_that_of_torchmetrics(document: dict[str, Any], runs: Path, scenes: Path) -> None:
    segmenter = Segmenter(runs / "unet")
    oracle = MulticlassCalibrationError(19, n_bins=15, norm="l1", ignore_index=255)
    for rgb, labels in open_dataset(scenes, "val"):
        logits = torch.from_numpy(segmenter.logits([segmenter.prepare(rgb)])[0])[None]
        enlarged = nn.functional.interpolate(logits, labels.shape, mode="bilinear", align_corners=False)
        oracle.update(enlarged.softmax(1), torch.from_numpy(labels)[None].long())
    reliability = document["models"][0]["reliability"]
    assert reliability["ece"] == pytest.approx(float(oracle.compute()), abs=1e-4)
    assert sum(b["share"] for b in reliability["bins"]) == pytest.approx(1)


def test_the_pair_s_difference_is_that_of_the_scores(document: dict[str, Any]) -> None:
    first, second = (model["report"]["scores"] for model in document["models"])
    (pair,) = document["pairs"]
    assert (pair["first"], pair["second"]) == NAMES
    difference = pair["differences"]["macro_dice"]
    assert difference["value"] == pytest.approx(first["macro"]["dice"] - second["macro"]["dice"])
    low, high = difference["interval"]
    assert (low + high) / 2 == pytest.approx(difference["value"]) and high - low < 1


def test_disagreement_is_the_share_of_pixels_counted_by_hand(document: dict[str, Any], runs: Path, scenes: Path) -> None:
    first = next(example for example in document["examples"] if example["rule"] == "disagreement")
    rgb, labels = open_dataset(scenes, "val")[first["index"]]
    a, b = (Segmenter(runs / name)(rgb).labels for name in NAMES)
    apart = sum(x != y for x, y, label in zip(a.ravel(), b.ravel(), labels.ravel(), strict=True) if label != 255)
    assert first["disagreement"] == pytest.approx(apart / (labels != 255).sum())


@pytest.mark.parametrize("name", ["unet", "r2unet", "ddunet"])
def test_gflop_are_those_of_the_convolutions_counted_by_hand(name: str) -> None:
    """Two for each multiplication and addition, a shared convolution at each use."""
    network, total = build_model(name, 19, 4).eval(), 0

    def add(layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal total
        places = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        total += 2 * layer.weight.numel() * places.shape[2] * places.shape[3]

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(add)
    with torch.no_grad():
        network(torch.zeros(1, 3, 64, 96))
    assert gflop(Architecture(name=name, width=4), 19, (64, 96)) == pytest.approx(total / 1e9)


def test_costs_are_told(document: dict[str, Any], runs: Path) -> None:
    for model in document["models"]:
        weights = sum(p.numel() for p in build_model(model["name"], 19, 2).parameters())
        cost = model["cost"]
        assert (cost["parameters"], cost["input_size"]) == (weights, [32, 64])
        assert cost["training_images_per_s"] > 0 and 0 < cost["median_ms"] <= cost["p95_ms"]
        assert cost["peak"]["gpu_mb"] is None and cost["peak"]["process_mb"] > 100  # torch alone takes that


def test_the_page_opens_without_any_other_file(page: Path) -> None:
    text = (page / "index.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert sources and all(source.startswith("data:image/") for source in sources)
    assert "<script" not in text and "@import" not in text and "url(" not in text


def test_page_and_markdown_show_the_scores(page: Path, document: dict[str, Any]) -> None:
    for name in ("index.html", "report.md"):
        text = (page / name).read_text()
        for model in document["models"]:
            low, high = (100 * bound for bound in model["report"]["intervals"]["macro_iou_labelled"])
            assert f"{100 * model['report']['scores']['macro_iou_labelled']:.1f} ({low:.1f} to {high:.1f})" in text
        assert document["pairs"][0]["verdict"] in text
        assert "void as road" in text and "82.15" in text


def test_every_figure_is_there_as_png_and_svg(page: Path) -> None:
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
        with Image.open(page / "figures" / f"{name}.png") as picture:
            assert min(picture.size) > 300
        assert ElementTree.parse(page / "figures" / f"{name}.svg").getroot().tag.endswith("svg")
    linked = re.findall(r"\]\((.*?)\)", (page / "report.md").read_text())
    assert {f"figures/{name}.png" for name in names} == set(linked)


def test_a_checkpoint_without_a_run_has_no_curves(checkpoint: Path, scenes: Path, tmp_path: Path, cli) -> None:
    code, _, _ = cli("compare", checkpoint, "--data", scenes, "--out", tmp_path, "--training-steps", 0)
    assert code == 0 and not (tmp_path / "figures" / "curves.png").exists()
    assert "nothing to compare it with" in (tmp_path / "index.html").read_text()


def of_seed(path: Path, name: str, seed: int) -> Path:
    """A checkpoint whose card tells of a training with that seed."""
    made = read_checkpoint(make_checkpoint(path, name, seed=seed))
    command = TrainConfig(model=name, data="x", seed=seed, width=4 if name == "unet" else 64).command
    leg = Leg(command=command, data="x", images=1, seed=seed, epochs=1)
    write_checkpoint(path, made.card.model_copy(update={"legs": (leg,)}), made.tensors)
    return path


def test_architectures_are_spoken_of_from_three_seeds_on(scenes: Path, tmp_path: Path, cli) -> None:
    files = [of_seed(tmp_path / f"{name}-{seed}.safetensors", name, seed) for name in NAMES for seed in range(3)]
    code, _, _ = cli("compare", *files, "--data", scenes, "--out", tmp_path / "r", "--training-steps", 0)
    document = json.loads((tmp_path / "r" / "report.json").read_text())
    assert code == 0
    assert document["architectures"] == {
        "unet of width 4": ["unet-0", "unet-1", "unet-2"], "ddunet of width 4": ["ddunet-0", "ddunet-1", "ddunet-2"],
    }  # fmt: skip
    (pair,) = document["architecture_pairs"]
    means = [
        np.mean([m["report"]["scores"]["pixel_accuracy"] for m in document["models"] if m["architecture"] == a]) for a in NAMES
    ]
    assert pair["differences"]["pixel_accuracy"]["value"] == pytest.approx(means[0] - means[1])


def test_the_same_seed_three_times_is_no_group(tmp_path: Path) -> None:
    files = [of_seed(tmp_path / f"unet-{n}.safetensors", "unet", seed) for n, seed in enumerate((1, 1, 2))]
    assert same_but_for_the_seed(open_contestants([str(f) for f in files], "cpu", "auto")) == {}


def test_the_scatter_of_seeds_widens_the_interval_of_architectures() -> None:
    """Images alone would tell them apart; another draw of the weights would turn the order round."""
    labelled = np.full((30, 2), 1000)

    def counts(accuracy: float) -> np.ndarray:
        true = np.random.default_rng(0).binomial(1000, accuracy, (30, 2))
        return np.stack((true, labelled, true + (1000 - true)[:, ::-1]), 1)

    groups = {"a": [0, 1, 2], "b": [3, 4, 5]}
    close = [counts(p) for p in (0.80, 0.80, 0.80, 0.78, 0.78, 0.78)]
    scattered = [counts(p) for p in (0.75, 0.80, 0.85, 0.73, 0.78, 0.83)]
    blocks, kinds = Blocks(["x"] * 30), [("a", 0)] * 3 + [("b", 0)] * 3
    low, _ = compare_architectures(groups, close, blocks, kinds)[0].differences["pixel_accuracy"].interval or (0, 0)
    assert low > 0
    found = compare_architectures(groups, scattered, blocks, kinds)[0].differences["pixel_accuracy"]
    scores = np.array([c[:, 0].sum() / c[:, 1].sum() for c in scattered]).reshape(2, 3)
    half = 2.776 * (scores.var(axis=1, ddof=1).sum() / 3) ** 0.5  # Student's with four degrees of freedom
    middle = scores[0].mean() - scores[1].mean()
    assert found.interval == pytest.approx((middle - half, middle + half), rel=0.02)  # the images add next to nothing


@pytest.mark.parametrize(("interval", "said"), [
    ((0.01, 0.03), "a is better than b, by 2.0 percentage points"),
    ((-0.05, -0.01), "b is better than a, by 3.0 percentage points"),
    ((-0.01, 0.02), "cannot tell a and b apart"),
])  # fmt: skip
def test_a_verdict_says_which_is_better_or_that_the_data_cannot_tell(interval: tuple[float, float], said: str) -> None:
    assert said in verdict("a", "b", Difference(value=sum(interval) / 2, interval=interval))


def test_examples_are_chosen_by_rule_and_not_twice_from_one_street() -> None:
    chosen = choose_by_score(np.linspace(0, 1, 101)[None] ** 2, ["drive"] * 101)
    assert [(c.index, c.rule) for c in chosen] == [
        (100, "best"), (92, "best"), (0, "worst"), (8, "worst"), (50, "typical"), (42, "typical"),
    ]  # fmt: skip


def test_few_pictures_get_no_rule_that_they_do_not_meet() -> None:
    chosen = choose_by_score(np.array([[0.2, 0.5, 0.55]]), ["drive"] * 3)
    assert [(c.index, c.rule) for c in chosen] == [(2, "best"), (0, "worst"), (1, "typical")]


def test_an_empty_value_of_the_history_is_no_point_of_the_curves(runs: Path, scenes: Path, tmp_path: Path, cli) -> None:
    shutil.copytree(runs / "unet", tmp_path / "_run $x$ |<b>")
    table = tmp_path / "_run $x$ |<b>" / "history.csv"
    names, *rows = table.read_text().splitlines()
    place = names.split(",").index("val_loss")
    cells = [row.split(",") for row in rows]
    table.write_text("\n".join([names, *(",".join([*c[:place], "", *c[place + 1 :]]) for c in cells)]) + "\n")
    out = tmp_path / "out"
    code, _, err = cli("compare", table.parent, "--data", scenes, "--out", out, "--training-steps", 0)
    assert code == 0, err
    assert "_run $x$ |&lt;b&gt;" in (out / "index.html").read_text()
    assert "| _run $x$ \\|&lt;b> |" in (out / "report.md").read_text()


def test_another_definition_is_told_as_what_it_is(checkpoint: Path, scenes: Path, tmp_path: Path, cli) -> None:
    flags = ("--threshold", 0.9, "--score-at", "label", "--training-steps", 0)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "curves.png").write_bytes(b"of an earlier comparison")
    assert cli("compare", checkpoint, "--data", scenes, "--out", tmp_path, *flags)[0] == 0
    text = (tmp_path / "index.html").read_text()
    assert "random, softmax &gt; 0.9" in text and "82.15" not in text
    assert not (tmp_path / "figures" / "curves.png").exists()


@pytest.mark.parametrize(("first", "second", "groups"), [
    ("", "", 1),
    (" --learning-rate 0.002", "", 0),  # three recipes of one seed each
    ("", " --init runs/{}/checkpoints/best.safetensors --learning-rate 0.0005 --seed {}", 1),
    ("", " --init a --learning-rate 0.00{}", 0),
])  # fmt: skip
def test_seeds_of_one_recipe_make_a_group(tmp_path: Path, first: str, second: str, groups: int) -> None:
    for seed in (1, 2, 3):
        path = tmp_path / f"unet-{seed}.safetensors"
        made = read_checkpoint(make_checkpoint(path, "unet", seed=seed))
        commands = [f"python -m training train --model unet --data x --seed {seed}{first and first + str(seed)}"]
        commands += ["python -m training train --model unet --data x" + second.format(seed, seed)] * bool(second)
        legs = tuple(Leg(command=command, data="x", images=1, seed=seed, epochs=1) for command in commands)
        write_checkpoint(path, made.card.model_copy(update={"legs": legs}), made.tensors)
    files = [str(path) for path in sorted(tmp_path.glob("*.safetensors"))]
    assert len(same_but_for_the_seed(open_contestants(files, "cpu", "auto"))) == groups


def test_one_checkpoint_under_two_names_scores_the_same(checkpoint: Path, scenes: Path, tmp_path: Path, cli) -> None:
    shutil.copy(checkpoint, tmp_path / "again.safetensors")
    flags = ("--data", scenes, "--out", tmp_path / "out", "--training-steps", 0)
    code, out, _ = cli("compare", checkpoint, tmp_path / "again.safetensors", *flags)
    assert code == 0 and "random and again score the same on every picture." in out
    assert "say nothing about architectures" in out  # and no sentence of a page that nobody opens


def test_the_recipe_is_the_same_for_every_seed_and_architecture(tmp_path: Path) -> None:
    files = [of_seed(tmp_path / f"{name}-{seed}.safetensors", name, seed) for name in NAMES for seed in range(3)]
    assert len({c.recipe for c in open_contestants([str(f) for f in files], "cpu", "auto")}) == 1


@pytest.mark.parametrize(("kinds", "said"), [
    ([("unet", 1), ("ddunet", 1)], None),
    ([("unet", 1), ("ddunet", 2)], "different recipes"),
    ([("unet", 1), ("unet", 2)], "by their recipe only"),
])  # fmt: skip
def test_different_recipes_are_told(kinds: list[tuple[str, int]], said: str | None) -> None:
    counts = [np.random.default_rng(k).integers(1, 9, (9, 1, 2)).repeat(3, 1) for k in range(6)]
    groups, each = {"a": [0, 1, 2], "b": [3, 4, 5]}, [kinds[0]] * 3 + [kinds[1]] * 3
    (pair,) = compare_architectures(groups, counts, Blocks(["x"] * 9), each)
    assert said in pair.verdict if said else "recipe" not in pair.verdict


def test_without_training_steps_nothing_is_trained(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.comparison.costs._training", None)
    assert training_speeds(open_contestants([str(checkpoint)], "cpu", "auto"), torch.device("cpu"), 0) == [None]


class TestWrongUse:
    """Exit 2 and one line that says what to do."""

    @staticmethod
    def told(result: tuple[int, str, str]) -> str:
        code, _, err = result
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, result
        return err

    def test_a_run_without_checkpoints(self, scenes: Path, tmp_path: Path, cli) -> None:
        (tmp_path / "run").mkdir()
        err = self.told(cli("compare", tmp_path / "run", "--data", scenes, "--out", tmp_path / "out"))
        assert "run" in err and "best.safetensors" in err

    def test_two_label_spaces(self, checkpoint: Path, plain: Path, scenes: Path, tmp_path: Path, cli) -> None:
        other = make_checkpoint(tmp_path / "other.safetensors", labels=open_dataset(plain, "val").labels)
        err = self.told(cli("compare", checkpoint, other, "--data", scenes, "--out", tmp_path / "out"))
        assert "class 0 is 'road' in one and 'a' in the other" in err

    def test_other_classes_than_the_data(self, checkpoint: Path, plain: Path, tmp_path: Path, cli) -> None:
        assert "19 classes" in self.told(cli("compare", checkpoint, "--data", plain, "--out", tmp_path / "out"))

    def test_an_empty_split(self, checkpoint: Path, plain: Path, tmp_path: Path, cli) -> None:
        (plain / "images" / "test").mkdir()
        flags = ("--data", plain, "--split", "test", "--out", tmp_path / "out")
        assert "'test' holds no photographs" in self.told(cli("compare", checkpoint, *flags))

    def test_no_such_split(self, checkpoint: Path, scenes: Path, tmp_path: Path, cli) -> None:
        flags = ("--data", scenes, "--split", "test", "--out", tmp_path / "out")
        assert "found: train, val" in self.told(cli("compare", checkpoint, *flags))

    def test_one_name_for_two(self, checkpoint: Path, scenes: Path, tmp_path: Path, cli) -> None:
        other = make_checkpoint(tmp_path / checkpoint.name)
        err = self.told(cli("compare", checkpoint, other, "--data", scenes, "--out", tmp_path / "out"))
        assert str(checkpoint) in err and str(other) in err

    def test_the_same_checkpoint_twice(self, checkpoint: Path, scenes: Path, tmp_path: Path, cli) -> None:
        assert "given twice" in self.told(cli("compare", checkpoint, checkpoint, "--data", scenes, "--out", tmp_path / "out"))

    def test_somebody_else_s_page(self, checkpoint: Path, scenes: Path, tmp_path: Path, cli) -> None:
        (tmp_path / "index.html").write_text("mine")
        assert "another index.html" in self.told(cli("compare", checkpoint, "--data", scenes, "--out", tmp_path))

    def test_a_file_where_the_report_should_be(self, checkpoint: Path, scenes: Path, cli) -> None:
        assert "--out" in self.told(cli("compare", checkpoint, "--data", scenes, "--out", checkpoint))
