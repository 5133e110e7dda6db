"""Tests of core.evaluation.evaluator: the counts do not depend on how a dataset is divided."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from core.data.datasets import DirectoryDataset, Sample, open_dataset
from core.data.labels import CITYSCAPES, IGNORE_INDEX, LabelSpace
from core.errors import InputError
from core.evaluation.evaluator import InputSizeDataset, evaluate_shard, require_same_labels
from core.images.resize import Preprocess
from core.inference.segmenter import Segmenter


@pytest.mark.parametrize(("batch_size", "world_size"), [(1, 1), (2, 1), (8, 1), (2, 2), (1, 3), (3, 7)])
def test_counts_do_not_depend_on_batch_and_world_size(checkpoint: Path, scenes: Path, batch_size: int, world_size: int) -> None:
    dataset, segmenter = open_dataset(scenes, "val"), Segmenter(checkpoint)
    expected = evaluate_shard(segmenter.predict_batch, dataset)
    shards = [evaluate_shard(segmenter.predict_batch, dataset, batch_size, rank, world_size) for rank in range(world_size)]
    assert np.array_equal(sum(shard.confusion for shard in shards), expected.confusion)
    assert np.array_equal(sum(shard.per_image for shard in shards), expected.per_image)


def test_every_valid_pixel_is_counted_once(checkpoint: Path, scenes: Path) -> None:
    dataset = open_dataset(scenes, "val")
    counts = evaluate_shard(Segmenter(checkpoint).predict_batch, dataset, 2)
    assert counts.confusion.sum() == sum(int((labels != IGNORE_INDEX).sum()) for _, labels in dataset)


def test_exception_of_on_batch_ends_evaluation(checkpoint: Path, scenes: Path) -> None:
    finished_images = []

    def on_batch(finished: int, samples: object) -> None:
        finished_images.append(finished)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_shard(Segmenter(checkpoint).predict_batch, open_dataset(scenes, "val"), on_batch=on_batch)
    assert finished_images == [1]


def test_files_of_batch_that_is_not_read_in_time_are_named(
    checkpoint: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, read = threading.Event(), DirectoryDataset.__getitem__

    def hang(self: DirectoryDataset, index: int) -> Sample:
        if index == 3:
            released.wait()
        return read(self, index)

    monkeypatch.setattr(DirectoryDataset, "__getitem__", hang)
    try:
        with pytest.raises(TimeoutError, match=r"000002_\S+, \S+000003_\S+: could not be read in 2 s; check the drive"):
            evaluate_shard(Segmenter(checkpoint).predict_batch, open_dataset(scenes, "val"), batch_size=2, timeout_s=2)
    finally:
        released.set()


def test_input_size_dataset_resizes_labels_only(scenes: Path) -> None:
    dataset = open_dataset(scenes, "val")
    rgb, labels = InputSizeDataset(dataset, Preprocess(mode="stretch", size=(16, 24)))[0]
    assert np.array_equal(rgb, dataset[0][0])
    assert labels.shape == (16, 24) and set(np.unique(labels)) <= set(np.unique(dataset[0][1]))


def test_different_classes_are_rejected() -> None:
    other = LabelSpace(name="x", names=("a",), ids=(0,), colors=((1, 2, 3),))
    with pytest.raises(InputError, match="the model has 19 classes"):
        require_same_labels(CITYSCAPES, other)
    require_same_labels(CITYSCAPES, CITYSCAPES)
