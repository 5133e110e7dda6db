"""Evaluation: the same counts however the work is cut, and the document that tells them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.data.datasets import open_dataset
from core.data.labels import CITYSCAPES, LabelSpace
from core.errors import InputError
from core.evaluation.report import CheckpointInfo, build_report, evaluate_shard, require_same_labels
from core.inference.segmenter import Segmenter

INFO = CheckpointInfo(name="n", architecture="ddunet", digest="d", backend="torch")


@pytest.mark.parametrize(("batch_size", "ranks"), [(1, 1), (2, 1), (8, 1), (2, 2), (1, 3), (3, 7)])
def test_counts_do_not_depend_on_batches_and_ranks(checkpoint: Path, scenes: Path, batch_size: int, ranks: int) -> None:
    dataset, segmenter = open_dataset(scenes, "val"), Segmenter(checkpoint)
    whole = evaluate_shard(segmenter.many, dataset)
    shares = [evaluate_shard(segmenter.many, dataset, batch_size, rank, ranks) for rank in range(ranks)]
    assert np.array_equal(sum(share.confusion for share in shares), whole.confusion)
    assert np.array_equal(sum(share.per_image for share in shares), whole.per_image)


def test_every_valid_pixel_is_counted_once(checkpoint: Path, scenes: Path) -> None:
    dataset = open_dataset(scenes, "val")
    tally = evaluate_shard(Segmenter(checkpoint).many, dataset, 2)
    assert tally.confusion.sum() == sum(int((labels != 255).sum()) for _, labels in dataset)


def test_a_perfect_prediction_scores_one(scenes: Path) -> None:
    dataset = open_dataset(scenes, "val")
    truth = {rgb.tobytes(): np.where(labels == 255, 0, labels) for rgb, labels in dataset}
    tally = evaluate_shard(lambda photos, _: [truth[rgb.tobytes()] for rgb in photos], dataset, 2)
    report = build_report(tally, INFO, dataset)
    assert report.scores.pixel_accuracy == report.scores.macro_iou == report.scores.micro.iou == 1


def test_the_report_has_the_contract_s_fields(checkpoint: Path, scenes: Path) -> None:
    dataset = open_dataset(scenes, "val")
    report = build_report(evaluate_shard(Segmenter(checkpoint).many, dataset), INFO, dataset).model_dump(mode="json")
    assert list(report) == ["checkpoint", "data", "definition", "scores", "classes", "confusion", "intervals", "speed"]
    assert list(report["checkpoint"]) == ["name", "architecture", "digest", "backend"]
    assert list(report["data"]) == ["name", "split", "images"]
    assert set(report["scores"]) == {"pixel_accuracy", "macro_iou", "macro_iou_labelled", "macro", "micro"}
    assert set(report["scores"]["micro"]) == {"accuracy", "sensitivity", "specificity", "dice", "iou"}
    assert set(report["classes"][0]) == {
        "name", "iou", "dice", "sensitivity", "specificity", "accuracy", "label_pixels", "predicted_pixels",
    }  # fmt: skip
    assert set(report["speed"]) == {"images_per_s", "median_ms", "p95_ms"}
    assert len(report["confusion"]) == 19


def test_a_failure_in_progress_ends_the_evaluation(checkpoint: Path, scenes: Path) -> None:
    def stop(done: int, samples: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_shard(Segmenter(checkpoint).many, open_dataset(scenes, "val"), progress=stop)


def test_other_classes_are_refused() -> None:
    other = LabelSpace(name="x", names=("a",), ids=(0,), colours=((1, 2, 3),))
    with pytest.raises(InputError, match="the model has 19 classes"):
        require_same_labels(CITYSCAPES, other)
