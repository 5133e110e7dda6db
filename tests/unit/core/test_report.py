"""Tests of core.evaluation.report: the scores and the JSON schema of a report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.data.datasets import open_dataset
from core.data.labels import IGNORE_INDEX
from core.evaluation.evaluator import evaluate_shard
from core.evaluation.report import CheckpointInfo, build_report, choose_examples
from core.inference.segmenter import Segmenter

INFO = CheckpointInfo(name="n", architecture="ddunet", digest="d", backend="torch")


def test_perfect_prediction_scores_one(scenes: Path) -> None:
    dataset = open_dataset(scenes, "val")
    label_maps = {rgb.tobytes(): np.where(labels == IGNORE_INDEX, 0, labels) for rgb, labels in dataset}
    counts = evaluate_shard(lambda images, _: [label_maps[rgb.tobytes()] for rgb in images], dataset, 2)
    report = build_report(counts, INFO, dataset)
    assert report.scores.pixel_accuracy == report.scores.miou == report.scores.micro.iou == 1


def counts_with_iou(*ious: float) -> np.ndarray:
    """Return counts (N, 3, 2) of images whose label has the first class only, with the given IoU; all void if it is NaN."""
    true = np.array([0 if np.isnan(iou) else round(100 * iou) for iou in ious])
    label = np.where(np.isnan(ious), 0, 100)
    first = np.stack([true, label, true], axis=1)
    return np.stack([first, np.zeros_like(first)], axis=2)


def test_examples_are_ordered_by_miou_and_ties_by_name() -> None:
    examples = choose_examples(counts_with_iou(0.5, 0.1, 0.9, 0.9, 0.1, 0.2, 0.8), ["g", "f", "e", "d", "c", "b", "a"])
    worst, best = ([(e.index, e.name, e.miou_present) for e in group] for group in (examples.worst, examples.best))
    assert worst == [(4, "c", 0.1), (1, "f", 0.1), (5, "b", 0.2)]
    assert best == [(3, "d", 0.9), (2, "e", 0.9), (6, "a", 0.8)]


def test_no_image_is_in_both_lists_of_examples() -> None:
    examples = choose_examples(counts_with_iou(0.1, 0.2, 0.3, 0.4), ["a", "b", "c", "d"])
    assert ([image.name for image in examples.worst], [image.name for image in examples.best]) == (["a", "b", "c"], ["d"])


def test_all_void_image_is_no_example() -> None:
    examples = choose_examples(counts_with_iou(0.5, float("nan")), ["a", "b"])
    assert ([image.name for image in examples.worst], examples.best) == (["a"], [])


def test_json_fields_are_those_of_schema_2(checkpoint: Path, scenes: Path) -> None:
    """Other programs read these names: they change with the schema version only."""
    dataset = open_dataset(scenes, "val")
    report = build_report(evaluate_shard(Segmenter(checkpoint).predict_batch, dataset), INFO, dataset).model_dump(mode="json")
    fields = "schema_version checkpoint data protocol scores classes confusion intervals examples speed"
    assert list(report) == fields.split() and report["schema_version"] == 2
    assert list(report["checkpoint"]) == ["name", "architecture", "digest", "backend"]
    assert list(report["data"]) == ["name", "split", "images"]
    assert set(report["scores"]) == {"pixel_accuracy", "miou", "miou_present", "macro", "micro"}
    assert set(report["scores"]["micro"]) == {"accuracy", "sensitivity", "specificity", "dice", "iou"}
    assert set(report["classes"][0]) == {
        "name", "iou", "dice", "sensitivity", "specificity", "accuracy", "label_pixels", "predicted_pixels",
    }  # fmt: skip
    assert {key: len(images) for key, images in report["examples"].items()} == {"worst": 3, "best": 2}
    assert set(report["examples"]["worst"][0]) == {"index", "name", "miou_present"}
    assert set(report["speed"]) == {"images_per_s", "median_ms", "p95_ms"}
    assert np.shape(report["confusion"]) == (19, 20)
