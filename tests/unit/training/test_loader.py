"""Tests of training.data.loader.DistributedBatchSampler."""

from __future__ import annotations

import pytest

from core.errors import InputError
from training.data.loader import DistributedBatchSampler


def test_epoch_contains_each_sample_once_and_drops_short_batch() -> None:
    batches = DistributedBatchSampler(21, 4, seed=0)
    first = [index for batch in batches.rank_batches(1) for index in batch]
    assert len(first) == len(set(first)) == 20 and batches.dropped == 1
    assert first != [index for batch in batches.rank_batches(2) for index in batch]


def test_ranks_split_each_global_batch() -> None:
    global_batches = DistributedBatchSampler(20, 4, seed=3).rank_batches(1)
    rank_batches = [DistributedBatchSampler(20, 4, 3, rank, 2).rank_batches(1) for rank in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*rank_batches, strict=True)] == [sorted(batch) for batch in global_batches]


def test_more_ranks_than_samples_is_rejected() -> None:
    with pytest.raises(InputError, match="2 samples for 3 processes"):
        DistributedBatchSampler(20, 2, 0, 0, 3)
