"""Learning-rate schedule: linear warmup, then a constant or a cosine decay."""

from __future__ import annotations

import math


def learning_rates(schedule: str, base: float, epoch: int, epochs: int, steps: int, warmup: float = 0) -> list[float]:
    """Return the learning rate of each step of an epoch.

    A pure function of the position in the run, so a resume file needs no scheduler state.

    Args:
        schedule: `constant`, or `cosine` for a half cosine from `base` after the warmup to zero at the end of the run.
        base: Learning rate after the warmup.
        epoch: Epoch, counted from 1.
        epochs: Epochs of the whole run.
        steps: Steps per epoch.
        warmup: Epochs (a fraction is allowed) in which the rate rises linearly from zero to `base`.
    """
    rates = []
    for step in range(steps):
        position = epoch - 1 + step / steps  # in epochs
        warmup_factor = min(1.0, (position + 1 / steps) / warmup) if warmup else 1.0
        decay_factor = 1.0
        if schedule == "cosine" and position >= warmup:
            decay_factor = 0.5 * (1 + math.cos(math.pi * (position - warmup) / max(epochs - warmup, 1 / steps)))
        rates.append(base * warmup_factor * decay_factor)
    return rates
