"""Tests of training.engine.lr_schedule."""

from __future__ import annotations

import pytest
import torch

from training.engine.lr_schedule import learning_rates


def test_warmup_rises_linearly_and_cosine_falls() -> None:
    rates = [rate for epoch in range(1, 5) for rate in learning_rates("cosine", 0.1, epoch, 4, 10, warmup=1)]
    assert rates[:10] == pytest.approx([0.01 * n for n in range(1, 11)])
    assert rates[10] == 0.1 and rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] < 1e-3


def test_constant_schedule_follows_fractional_warmup() -> None:
    assert learning_rates("constant", 0.1, 1, 4, 4, warmup=0.5) == pytest.approx([0.05, 0.1, 0.1, 0.1])


def test_cosine_matches_torch() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    for rate in (rate for epoch in (1, 2) for rate in learning_rates("cosine", 0.1, epoch, 2, 10)):
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


def test_cosine_falls_across_epochs_and_constant_does_not() -> None:
    assert learning_rates("constant", 0.1, 3, 10, 4) == [0.1] * 4
    rates = [rate for epoch in (1, 2) for rate in learning_rates("cosine", 0.1, epoch, 2, 50)]
    assert rates[0] == 0.1 and rates[50] == pytest.approx(0.05) and rates[-1] < 1e-4
    assert rates == sorted(rates, reverse=True)
