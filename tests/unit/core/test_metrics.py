"""Counts and scores against torchmetrics and the official Cityscapes scripts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchmetrics import classification as tm

from core.backends import torch_cpu
from core.data.labels import CITYSCAPES, VOID
from core.evaluation import metrics
from core.images.encode import grey_png

K = 19
Maps = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def maps() -> Maps:
    """Labels with void and predictions that are right two times in three; classes 14 to 18 occur in neither."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 12, (3, 40, 50)).astype(np.uint8)
    predictions = np.where(rng.random(labels.shape) < 0.66, labels, rng.integers(0, 14, labels.shape)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.1] = VOID
    return labels, predictions


@pytest.fixture(scope="module")
def counts(maps: Maps) -> metrics.Counts:
    return sum((metrics.confusion(a, b, K) for a, b in zip(*maps, strict=True)), np.zeros((K, K + 1), np.int64))


def tensors(maps: Maps) -> tuple[torch.Tensor, torch.Tensor]:
    labels, predictions = (torch.from_numpy(m).long() for m in maps)
    return predictions, labels


def test_confusion_is_that_of_torchmetrics(maps: Maps, counts: metrics.Counts) -> None:
    oracle = tm.MulticlassConfusionMatrix(K, ignore_index=VOID)(*tensors(maps)).numpy()
    assert np.array_equal(counts[:, :K], oracle)
    assert not counts[:, K].any()


def test_confusion_on_a_device_is_the_same(maps: Maps, counts: metrics.Counts) -> None:
    predictions, labels = tensors(maps)
    assert np.array_equal(torch_cpu.confusion(labels.byte(), predictions, K).numpy(), counts)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("iou", tm.MulticlassJaccardIndex), ("dice", tm.MulticlassF1Score), ("sensitivity", tm.MulticlassRecall),
     ("specificity", tm.MulticlassSpecificity)],
)  # fmt: skip
@pytest.mark.parametrize("average", ["macro", "micro"])
def test_scores_are_those_of_torchmetrics(maps: Maps, counts: metrics.Counts, ours: str, theirs: type, average: str) -> None:
    oracle = float(theirs(K, average=average, ignore_index=VOID)(*tensors(maps)))
    scores = metrics.scores(counts)
    assert getattr(getattr(scores, average), ours) == pytest.approx(oracle, abs=1e-6)


def test_per_class_iou_is_that_of_torchmetrics(maps: Maps, counts: metrics.Counts) -> None:
    oracle = tm.MulticlassJaccardIndex(K, average="none", ignore_index=VOID)(*tensors(maps)).numpy()
    for ours, theirs in zip(metrics.class_scores(counts, CITYSCAPES), oracle, strict=True):
        assert (ours.iou or 0.0) == pytest.approx(float(theirs), abs=1e-6)


def test_accuracy_of_a_class_is_that_of_a_binary_problem(maps: Maps, counts: metrics.Counts) -> None:
    predictions, labels = tensors(maps)
    valid = labels != VOID
    oracle = float(tm.BinaryAccuracy()((predictions[valid] == 3).long(), (labels[valid] == 3).long()))
    assert metrics.class_scores(counts, CITYSCAPES)[3].accuracy == pytest.approx(oracle, abs=1e-6)


def test_iou_is_that_of_the_official_scripts(
    maps: Maps, counts: metrics.Counts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official  # noqa: N813

    files = []
    for kind, pictures in zip(("truth", "prediction"), maps, strict=True):
        paths = [tmp_path / f"{kind}{number}.png" for number in range(len(pictures))]
        for path, picture in zip(paths, pictures, strict=True):
            # as label ids: 255 makes the scripts exit, void is 0 there
            path.write_bytes(grey_png(CITYSCAPES.decode(picture).astype(np.uint8)))
        files.append([str(path) for path in paths])
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # the scripts' name for it is gone from numpy 2
    monkeypatch.setattr(official.args, "quiet", True)
    monkeypatch.setattr(official.args, "JSONOutput", False)
    result = official.evaluateImgLists(files[1], files[0], official.args)
    ours = metrics.class_scores(counts, CITYSCAPES)
    for c in ours:
        theirs = result["classScores"][c.name]
        assert (np.isnan(theirs) and c.iou is None) or c.iou == pytest.approx(theirs, abs=1e-9)
    assert metrics.scores(counts).macro_iou == pytest.approx(result["averageScoreClasses"], abs=1e-9)


def test_micro_scores_under_argmax_are_one_number_in_five_coats(counts: metrics.Counts) -> None:
    scores = metrics.scores(counts)
    p, micro = scores.pixel_accuracy, scores.micro
    assert p is not None
    assert micro.sensitivity == micro.dice == p
    assert micro.iou == pytest.approx(p / (2 - p), abs=1e-12)
    assert micro.accuracy == pytest.approx(1 - 2 * (1 - p) / K, abs=1e-12)
    assert micro.specificity == pytest.approx(1 - (1 - p) / (K - 1), abs=1e-12)


def test_a_class_in_neither_map_is_left_out(counts: metrics.Counts) -> None:
    absent = metrics.class_scores(counts, CITYSCAPES)[18]
    assert absent.iou is None and absent.accuracy is None and absent.label_pixels == 0


def test_labelled_mean_is_over_the_classes_that_labels_hold(counts: metrics.Counts) -> None:
    ious = [c.iou for c in metrics.class_scores(counts, CITYSCAPES) if c.label_pixels]
    assert len(ious) == 12
    assert metrics.scores(counts).macro_iou_labelled == pytest.approx(np.mean(ious))


def test_no_class_counts_in_the_last_column_and_against_the_label_only() -> None:
    counts = metrics.confusion(np.array([[0, 1, VOID]], np.uint8), np.array([[VOID, 1, VOID]], np.uint8), 2)
    assert counts.tolist() == [[0, 0, 1], [0, 1, 0]]


def test_255_classes_do_not_overflow() -> None:
    labels = np.array([[254, 255]], np.uint8)
    assert metrics.confusion(labels, labels, 255)[254, 254] == 1


def test_shapes_that_differ_are_an_error() -> None:
    with pytest.raises(ValueError, match="one shape"):
        metrics.confusion(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), 2)


def test_nothing_but_void_has_no_scores() -> None:
    void = np.full((4, 4), VOID, np.uint8)
    scores = metrics.scores(metrics.confusion(void, void * 0, K))
    assert scores.pixel_accuracy is None and scores.macro_iou is None and scores.micro.accuracy is None


def test_log_loss_is_torch_s_cross_entropy(maps: Maps) -> None:
    logits = torch.randn(K, 40, 50) * 5
    labels = maps[0][0]
    total, valid = metrics.log_loss(logits.numpy(), labels)
    oracle = F.cross_entropy(logits[None], torch.from_numpy(labels).long()[None], ignore_index=VOID)
    assert total / valid == pytest.approx(float(oracle), abs=1e-5)
