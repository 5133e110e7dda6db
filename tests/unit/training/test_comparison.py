"""Tests of training.comparison: verdicts, choice of examples, and the comparison of architectures over seeds."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

from core.checkpoints.checkpoint import Architecture
from core.evaluation.bootstrap import BlockBootstrap
from core.evaluation.difference import Difference
from core.models import build_model
from training.comparison.examples import choose_by_score
from training.comparison.text import _difference
from training.comparison.verdicts import compare_architectures, verdict
from training.tracking.run_summary import count_gflops


def test_variance_of_seeds_widens_interval() -> None:
    """The images alone show a difference, but the scores of single seeds overlap."""
    labeled = np.full((30, 2), 1000)

    def make_counts(accuracy: float) -> np.ndarray:
        correct = np.random.default_rng(0).binomial(1000, accuracy, (30, 2))
        return np.stack((correct, labeled, correct + (1000 - correct)[:, ::-1]), 1)

    groups = {"a": [0, 1, 2], "b": [3, 4, 5]}
    close = [make_counts(p) for p in (0.80, 0.80, 0.80, 0.78, 0.78, 0.78)]
    scattered = [make_counts(p) for p in (0.75, 0.80, 0.85, 0.73, 0.78, 0.83)]
    blocks, recipes = BlockBootstrap(["x"] * 30), [("a", 0)] * 3 + [("b", 0)] * 3
    low, _ = compare_architectures(groups, close, blocks, recipes)[0].differences["pixel_accuracy"].interval or (0, 0)
    assert low > 0
    difference = compare_architectures(groups, scattered, blocks, recipes)[0].differences["pixel_accuracy"]
    scores = np.array([c[:, 0].sum() / c[:, 1].sum() for c in scattered]).reshape(2, 3)
    half = 2.776 * (scores.var(axis=1, ddof=1).sum() / 3) ** 0.5  # Student's t with four degrees of freedom
    middle = scores[0].mean() - scores[1].mean()
    assert difference.interval == pytest.approx((middle - half, middle + half), rel=0.02)  # The images add almost nothing.


@pytest.mark.parametrize(("recipes", "message"), [
    ([("unet", 1), ("ddunet", 1)], None),
    ([("unet", 1), ("ddunet", 2)], "different recipes"),
    ([("unet", 1), ("unet", 2)], "differ only in their training recipe"),
])  # fmt: skip
def test_different_recipes_are_reported(recipes: list[tuple[str, int]], message: str | None) -> None:
    counts = [np.random.default_rng(k).integers(1, 9, (9, 1, 2)).repeat(3, 1) for k in range(6)]
    groups, model_recipes = {"a": [0, 1, 2], "b": [3, 4, 5]}, [recipes[0]] * 3 + [recipes[1]] * 3
    (pair,) = compare_architectures(groups, counts, BlockBootstrap(["x"] * 9), model_recipes)
    assert message in pair.verdict if message else "recipe" not in pair.verdict


@pytest.mark.parametrize(("interval", "message"), [
    ((0.01, 0.03), "a is better than b: a minus b is +2.0 percentage points of mIoU (labeled classes),"),
    ((-0.05, -0.01), "b is better than a: a minus b is -3.0 percentage points"),
    ((0.006, 0.014), "a is better than b:"),
    ((0.004, 0.03), "Weak evidence that a is better than b: a minus b is +1.7 percentage points"),
    ((-0.031, -0.005), "Weak evidence that b is better than a: a minus b is -1.8 percentage points"),
    ((-0.01, 0.02), "The data does not show whether a or b is better: a minus b is +0.5"),
    ((-0.001, 0.02), "The data does not show whether a or b is better:"),
    ((0.0, 0.0), "a and b score the same on every image."),
])  # fmt: skip
def test_verdict_states_direction_and_evidence(interval: tuple[float, float], message: str) -> None:
    assert verdict("a", "b", Difference(value=sum(interval) / 2, interval=interval)).startswith(message)


@pytest.mark.parametrize("interval", [(0.01, 0.03), (-0.05, -0.01), (-0.01, 0.02), (-0.02, -0.001)])
def test_verdict_has_numbers_of_table(interval: tuple[float, float]) -> None:
    difference = Difference(value=sum(interval) / 2, interval=interval)
    value, low, high = re.findall(r"[+-]\d+\.\d", _difference(difference))
    sentence = verdict("a", "b", difference)
    assert f"a minus b is {value} " in sentence and f"{low} to {high}" in sentence


def test_examples_of_one_rule_are_not_adjacent_frames() -> None:
    chosen = choose_by_score(np.linspace(0, 1, 101)[None] ** 2, ["drive"] * 101)
    assert [(c.index, c.rule) for c in chosen] == [
        (100, "best"), (92, "best"), (0, "worst"), (8, "worst"), (50, "typical"), (42, "typical"),
    ]  # fmt: skip


def test_few_images_give_one_example_per_rule() -> None:
    chosen = choose_by_score(np.array([[0.2, 0.5, 0.55]]), ["drive"] * 3)
    assert [(c.index, c.rule) for c in chosen] == [(2, "best"), (0, "worst"), (1, "typical")]


@pytest.mark.parametrize("name", ["unet", "r2unet", "ddunet"])
def test_gflops_match_sum_over_convolutions(name: str) -> None:
    """Count two operations per multiply-accumulate, and shared convolutions at each use."""
    network, total = build_model(name, 19, 4).eval(), 0

    def add(layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal total
        positions = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        total += 2 * layer.weight.numel() * positions.shape[2] * positions.shape[3]

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(add)
    with torch.no_grad():
        network(torch.zeros(1, 3, 64, 96))
    assert count_gflops(Architecture(name=name, width=4), 19, (64, 96)) == pytest.approx(total / 1e9)
