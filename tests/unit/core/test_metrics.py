"""Tests of core.evaluation.metrics against torchmetrics and the official Cityscapes scripts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchmetrics import classification as tm

from core.data.labels import CITYSCAPES, IGNORE_INDEX
from core.evaluation import metrics
from core.images.encode import encode_gray_png

K = 19
Maps = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def maps() -> Maps:
    """Labels with void and predictions that are right two times in three; classes 14 to 18 occur in neither."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 12, (3, 40, 50)).astype(np.uint8)
    predictions = np.where(rng.random(labels.shape) < 0.66, labels, rng.integers(0, 14, labels.shape)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.1] = IGNORE_INDEX
    return labels, predictions


@pytest.fixture(scope="module")
def confusion(maps: Maps) -> metrics.ConfusionMatrix:
    return sum((metrics.confusion_matrix(a, b, K) for a, b in zip(*maps, strict=True)), np.zeros((K, K + 1), np.int64))


def as_tensors(maps: Maps) -> tuple[torch.Tensor, torch.Tensor]:
    """Return predictions and labels, in the order of torchmetrics."""
    labels, predictions = (torch.from_numpy(m).long() for m in maps)
    return predictions, labels


def test_confusion_matrix_matches_torchmetrics(maps: Maps, confusion: metrics.ConfusionMatrix) -> None:
    expected = tm.MulticlassConfusionMatrix(K, ignore_index=IGNORE_INDEX)(*as_tensors(maps)).numpy()
    assert np.array_equal(confusion[:, :K], expected)
    assert not confusion[:, K].any()


@pytest.mark.parametrize(
    ("name", "metric"),
    [("iou", tm.MulticlassJaccardIndex), ("dice", tm.MulticlassF1Score), ("sensitivity", tm.MulticlassRecall),
     ("specificity", tm.MulticlassSpecificity)],
)  # fmt: skip
@pytest.mark.parametrize("average", ["macro", "micro"])
def test_scores_match_torchmetrics(
    maps: Maps, confusion: metrics.ConfusionMatrix, name: str, metric: type, average: str
) -> None:
    expected = float(metric(K, average=average, ignore_index=IGNORE_INDEX)(*as_tensors(maps)))
    assert getattr(getattr(metrics.scores(confusion), average), name) == pytest.approx(expected, abs=1e-6)


def test_per_class_iou_matches_torchmetrics(maps: Maps, confusion: metrics.ConfusionMatrix) -> None:
    expected = tm.MulticlassJaccardIndex(K, average="none", ignore_index=IGNORE_INDEX)(*as_tensors(maps)).numpy()
    ious = [c.iou or 0.0 for c in metrics.class_scores(confusion, CITYSCAPES)]
    assert ious == pytest.approx(expected.tolist(), abs=1e-6)


def test_per_class_accuracy_is_one_vs_rest(maps: Maps, confusion: metrics.ConfusionMatrix) -> None:
    predictions, labels = as_tensors(maps)
    valid = labels != IGNORE_INDEX
    expected = float(tm.BinaryAccuracy()((predictions[valid] == 3).long(), (labels[valid] == 3).long()))
    assert metrics.class_scores(confusion, CITYSCAPES)[3].accuracy == pytest.approx(expected, abs=1e-6)


def test_iou_matches_cityscapes_scripts(
    maps: Maps, confusion: metrics.ConfusionMatrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official  # noqa: N813

    files: list[list[str]] = []
    for kind, images in zip(("label", "prediction"), maps, strict=True):
        paths = [tmp_path / f"{kind}{index}.png" for index in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            # The scripts expect label ids, of which 0 is void; on 255 they exit.
            path.write_bytes(encode_gray_png(CITYSCAPES.decode(image).astype(np.uint8)))
        files.append([str(path) for path in paths])
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # The scripts use a name that NumPy 2 has removed.
    monkeypatch.setattr(official.args, "quiet", True)
    monkeypatch.setattr(official.args, "JSONOutput", False)
    label_files, prediction_files = files
    expected = official.evaluateImgLists(prediction_files, label_files, official.args)
    for c in metrics.class_scores(confusion, CITYSCAPES):
        iou = expected["classScores"][c.name]
        assert (np.isnan(iou) and c.iou is None) or c.iou == pytest.approx(iou, abs=1e-9)
    assert metrics.scores(confusion).miou == pytest.approx(expected["averageScoreClasses"], abs=1e-9)


def test_micro_scores_follow_from_pixel_accuracy(confusion: metrics.ConfusionMatrix) -> None:
    """With argmax predictions each wrong pixel is one false positive and one false negative."""
    scores = metrics.scores(confusion)
    p, micro = scores.pixel_accuracy, scores.micro
    assert p is not None
    assert micro.sensitivity == micro.dice == p
    assert micro.iou == pytest.approx(p / (2 - p), abs=1e-12)
    assert micro.accuracy == pytest.approx(1 - 2 * (1 - p) / K, abs=1e-12)
    assert micro.specificity == pytest.approx(1 - (1 - p) / (K - 1), abs=1e-12)


def test_absent_class_has_no_scores(confusion: metrics.ConfusionMatrix) -> None:
    absent = metrics.class_scores(confusion, CITYSCAPES)[18]
    assert absent.iou is None and absent.accuracy is None and absent.label_pixels == 0


def test_miou_present_averages_labeled_classes(confusion: metrics.ConfusionMatrix) -> None:
    ious = [c.iou for c in metrics.class_scores(confusion, CITYSCAPES) if c.label_pixels]
    assert len(ious) == 12
    assert metrics.scores(confusion).miou_present == pytest.approx(np.mean(ious))


def test_void_predictions_count_in_last_column() -> None:
    labels = np.array([[0, 1, IGNORE_INDEX]], np.uint8)
    predictions = np.array([[IGNORE_INDEX, 1, IGNORE_INDEX]], np.uint8)
    assert metrics.confusion_matrix(labels, predictions, 2).tolist() == [[0, 0, 1], [0, 1, 0]]


def test_255_classes_do_not_overflow() -> None:
    labels = np.array([[254, 255]], np.uint8)
    assert metrics.confusion_matrix(labels, labels, 255)[254, 254] == 1


def test_different_shapes_are_rejected() -> None:
    with pytest.raises(ValueError, match="expected equal shapes"):
        metrics.confusion_matrix(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), 2)


def test_void_labels_have_no_scores() -> None:
    void = np.full((4, 4), IGNORE_INDEX, np.uint8)
    scores = metrics.scores(metrics.confusion_matrix(void, void * 0, K))
    assert scores.pixel_accuracy is None and scores.miou is None and scores.micro.accuracy is None


def test_cross_entropy_matches_torch(maps: Maps) -> None:
    logits = 5 * torch.randn(K, 40, 50, generator=torch.Generator().manual_seed(0))
    labels = maps[0][0]
    total, valid = metrics.cross_entropy_sum(logits.numpy(), labels)
    expected = F.cross_entropy(logits[None], torch.from_numpy(labels).long()[None], ignore_index=IGNORE_INDEX)
    assert total / valid == pytest.approx(float(expected), abs=1e-5)
