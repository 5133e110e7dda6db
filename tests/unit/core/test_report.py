"""Tests of core.evaluation.report: the scores and the JSON schema of a report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.data.datasets import open_dataset
from core.data.labels import IGNORE_INDEX
from core.evaluation.evaluator import evaluate_shard
from core.evaluation.report import CheckpointInfo, build_report
from core.inference.segmenter import Segmenter

INFO = CheckpointInfo(name="n", architecture="ddunet", digest="d", backend="torch")


def test_perfect_prediction_scores_one(scenes: Path) -> None:
    dataset = open_dataset(scenes, "val")
    label_maps = {rgb.tobytes(): np.where(labels == IGNORE_INDEX, 0, labels) for rgb, labels in dataset}
    counts = evaluate_shard(lambda images, _: [label_maps[rgb.tobytes()] for rgb in images], dataset, 2)
    report = build_report(counts, INFO, dataset)
    assert report.scores.pixel_accuracy == report.scores.miou == report.scores.micro.iou == 1


def test_json_fields_are_those_of_schema_2(checkpoint: Path, scenes: Path) -> None:
    """Other programs read these names: they change with the schema version only."""
    dataset = open_dataset(scenes, "val")
    report = build_report(evaluate_shard(Segmenter(checkpoint).predict_batch, dataset), INFO, dataset).model_dump(mode="json")
    fields = "schema_version checkpoint data protocol scores classes confusion intervals speed"
    assert list(report) == fields.split() and report["schema_version"] == 2
    assert list(report["checkpoint"]) == ["name", "architecture", "digest", "backend"]
    assert list(report["data"]) == ["name", "split", "images"]
    assert set(report["scores"]) == {"pixel_accuracy", "miou", "miou_present", "macro", "micro"}
    assert set(report["scores"]["micro"]) == {"accuracy", "sensitivity", "specificity", "dice", "iou"}
    assert set(report["classes"][0]) == {
        "name", "iou", "dice", "sensitivity", "specificity", "accuracy", "label_pixels", "predicted_pixels",
    }  # fmt: skip
    assert set(report["speed"]) == {"images_per_s", "median_ms", "p95_ms"}
    assert np.shape(report["confusion"]) == (19, 20)
