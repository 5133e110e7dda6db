"""Which model is better, and whether the data can tell: paired differences with intervals, and a plain sentence for each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from pydantic import BaseModel

from core.evaluation.bootstrap import Blocks, Estimate, Interval, PerImage, estimate
from core.evaluation.metrics import SCORES, leading
from training.tracking.run_dir import LEADING


class Difference(BaseModel):
    """The first less the second, with its paired 95 % interval; None where a score is undefined."""

    value: float | None
    interval: Interval | None


class Pair(BaseModel):
    """Two models, or two architectures with several seeds each: the differences by score, and what they mean."""

    first: str
    second: str
    differences: dict[str, Difference]
    verdict: str


def compare_models(names: Sequence[str], counts: Sequence[PerImage], blocks: Blocks) -> list[Pair]:
    """Every pair of checkpoints, on the same images."""
    pairs = []
    for a, b in combinations(range(len(names)), 2):
        found = estimate(blocks, [(1.0, counts[a]), (-1.0, counts[b])])
        pairs.append(_pair(names[a], names[b], found))
    return pairs


def compare_architectures(
    groups: dict[str, list[int]], counts: Sequence[PerImage], blocks: Blocks, kinds: Sequence[tuple[object, object]]
) -> list[Pair]:
    """Every pair of architectures, means over their seeds. `kinds` has the architecture and the recipe of each model: the
    verdict tells where it is not the architecture alone that differs.

    To the variance of the images comes that of the seeds, s^2 / n of each group, which another draw of the weights would
    bring too; degrees of freedom after Welch and Satterthwaite.
    """
    pairs = []
    for (name, mine), (other, theirs) in combinations(groups.items(), 2):
        terms = [(1 / len(mine), counts[k]) for k in mine] + [(-1 / len(theirs), counts[k]) for k in theirs]
        images = estimate(blocks, terms)
        variances, freedoms = [images.error**2], [images.freedom]
        for places in (mine, theirs):
            scores = np.stack([leading(counts[k].sum(0)) for k in places])
            variances.append(scores.var(axis=0, ddof=1) / len(places))
            freedoms.append(np.full(len(SCORES), len(places) - 1.0))
        total = np.sum(variances, axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = np.sum([v**2 / f for v, f in zip(variances, freedoms, strict=True)], axis=0)
            freedom = np.maximum(np.where(parts > 0, total**2 / parts, np.inf), 1)
        pair = _pair(name, other, Estimate(images.value, total**0.5, freedom))
        (architecture, recipe), (other_architecture, other_recipe) = kinds[mine[0]], kinds[theirs[0]]
        if architecture == other_architecture:
            pair.verdict += " They differ by their recipe only."
        elif recipe != other_recipe:
            pair.verdict += " They were trained by different recipes, so this is of recipe and architecture together."
        pairs.append(pair)
    return pairs


def _pair(first: str, second: str, found: Estimate) -> Pair:
    differences = {}
    for name, value, half in zip(SCORES, found.value, found.half_widths(), strict=True):
        known = bool(np.isfinite(value))
        interval = (float(value - half), float(value + half)) if np.isfinite(half) else None
        differences[name] = Difference(value=float(value) if known else None, interval=interval)
    return Pair(first=first, second=second, differences=differences, verdict=verdict(first, second, differences[LEADING]))


def verdict(first: str, second: str, difference: Difference) -> str:
    """What a difference of the leading score means, in a plain sentence."""
    what = "macro IoU of the labelled classes"
    if difference.value is None or difference.interval is None:
        return f"{first} and {second}: too few pictures to tell."
    if not difference.value and difference.interval == (0, 0):
        return f"{first} and {second} score the same on every picture."
    low, high = (100 * bound for bound in difference.interval)
    if low > 0 or high < 0:
        better, worse = (first, second) if low > 0 else (second, first)
        least, most = sorted((abs(low), abs(high)))
        points = abs(100 * difference.value)
        return (f"{better} is better than {worse}, by {points:.1f} percentage points of {what} (95 % interval: {least:.1f} to"
                f" {most:.1f}).")  # fmt: skip
    return (f"The data cannot tell {first} and {second} apart: {first} minus {second} is {100 * difference.value:+.1f}"
            f" percentage points of {what}; the 95 % interval, {low:+.1f} to {high:+.1f}, includes zero.")  # fmt: skip
