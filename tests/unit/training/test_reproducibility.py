"""Tests of training.engine.reproducibility."""

from __future__ import annotations

import torch

from training.engine.reproducibility import describe_changes, is_deterministic


def test_only_cuda_is_not_deterministic() -> None:
    assert is_deterministic(torch.device("cpu"))
    assert not is_deterministic(torch.device("cuda", 0))


def test_describe_changes_compares_common_values() -> None:
    before = {"threads": 1, "device": "cpu"}
    assert describe_changes(before, {"threads": 2, "device": "cpu", "torch": "2.9"}) == ["threads 2 instead of 1"]
    assert describe_changes(before, before) == []
