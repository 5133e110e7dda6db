"""Which model is better: paired differences of the scores with confidence intervals, and a sentence about each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from pydantic import BaseModel

from core.evaluation.bootstrap import BlockBootstrap, Estimate, PerImage, estimate
from core.evaluation.difference import Difference, describe_estimate
from core.evaluation.metrics import SCORE_NAMES, score_vector
from training.tracking.curves import display_name
from training.tracking.run_dir import SELECTION_METRIC

WEAK_MARGIN = 0.005  # evidence is weak if the 95 % interval ends this close to zero


class Pair(BaseModel):
    """Two models, or two architectures with several seeds each: their differences by score, and the verdict."""

    first: str
    second: str
    differences: dict[str, Difference]
    verdict: str


def compare_models(names: Sequence[str], counts: Sequence[PerImage], blocks: BlockBootstrap) -> list[Pair]:
    """Compare every pair of checkpoints on the same images.

    Args:
        names: Name of each model.
        counts: Counts per image of each model.
    """
    pairs = []
    for a, b in combinations(range(len(names)), 2):
        pairs.append(_pair(names[a], names[b], estimate(blocks, [(1.0, counts[a]), (-1.0, counts[b])])))
    return pairs


def compare_architectures(
    groups: dict[str, list[int]], counts: Sequence[PerImage], blocks: BlockBootstrap, keys: Sequence[tuple[object, object]]
) -> list[Pair]:
    """Compare every pair of groups by the mean over their seeds.

    Args:
        groups: Indices of the models of each group, by group name.
        counts: Counts per image of each model.
        keys: Architecture and recipe of each model; the verdict mentions recipes that differ.

    The variance of a difference is that of the images plus that of the seeds, s^2 / n for each group, because training again
    would draw other initial weights. Degrees of freedom by Welch and Satterthwaite.
    """
    pairs = []
    for (first, first_group), (second, second_group) in combinations(groups.items(), 2):
        terms = [(1 / len(first_group), counts[k]) for k in first_group]
        terms += [(-1 / len(second_group), counts[k]) for k in second_group]
        images = estimate(blocks, terms)
        variances, dofs = [images.standard_error**2], [images.dof]
        for group in (first_group, second_group):
            scores = np.stack([score_vector(counts[k].sum(0)) for k in group])
            variances.append(scores.var(axis=0, ddof=1) / len(group))
            dofs.append(np.full(len(SCORE_NAMES), len(group) - 1.0))
        total = np.sum(variances, axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = np.sum([variance**2 / dof for variance, dof in zip(variances, dofs, strict=True)], axis=0)
            total_dof = np.maximum(np.where(parts > 0, total**2 / parts, np.inf), 1)
        pair = _pair(first, second, Estimate(images.value, total**0.5, total_dof))
        (first_architecture, first_recipe), (second_architecture, second_recipe) = keys[first_group[0]], keys[second_group[0]]
        if first_architecture == second_architecture:
            pair.verdict += " They differ only in their training recipe."
        elif first_recipe != second_recipe:
            pair.verdict += " They were trained with different recipes, so this compares recipe and architecture together."
        pairs.append(pair)
    return pairs


def _pair(first: str, second: str, difference: Estimate) -> Pair:
    differences = dict(zip(SCORE_NAMES, describe_estimate(difference), strict=True))
    text = verdict(first, second, differences[SELECTION_METRIC])
    return Pair(first=first, second=second, differences=differences, verdict=text)


def verdict(first: str, second: str, difference: Difference) -> str:
    """Return a sentence about a difference of the mIoU over the labeled classes.

    The sentence shows first minus second with its sign, like the tables.
    """
    if difference.value is None or difference.interval is None:
        return f"{first} and {second}: too few images for a comparison."
    low, high = difference.interval
    if difference.value == low == high == 0:
        return f"{first} and {second} score the same on every image."
    numbers = (
        f"{first} minus {second} is {signed_percent(difference.value)} percentage points of {display_name(SELECTION_METRIC)},"
        f" with a 95 % interval of {signed_percent(low)} to {signed_percent(high)}"
    )
    if low <= 0 <= high:
        return f"The data does not show whether {first} or {second} is better: {numbers}, which includes zero."
    better, worse = (first, second) if low > 0 else (second, first)
    if min(abs(low), abs(high)) <= WEAK_MARGIN:
        return f"Weak evidence that {better} is better than {worse}: {numbers}, which ends close to zero."
    return f"{better} is better than {worse}: {numbers}."


def signed_percent(fraction: float) -> str:
    """Format a difference of scores in percentage points, with its sign."""
    return f"{100 * fraction:+.1f}"
