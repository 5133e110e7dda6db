"""95 % intervals of scores and of their differences, by resampling images in blocks: frames of a film are not independent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.evaluation.metrics import SCORES, leading

RESAMPLES = 1000
KEPT = 8  # block lengths whose resamples stay in memory
NOTHING = 1e-9  # an error below it is rounding
UNDEFINED = 0.05  # of the resamples may leave a score undefined; with more, too few images hold what it is about
MANY = 10  # drives or cities, from which on whole ones are drawn
LONG = 50  # images of a drive or city, from which on its own mean is known well enough
PER_BLOCK = 4  # block length as a multiple of the lag beyond which nothing is left of the autocorrelation
# Student's 97.5 % quantile by degrees of freedom; linear in their reciprocal in between (to 1 % from 2 on)
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 8: 2.306, 10: 2.228, 20: 2.086, 60: 2.0, 1e9: 1.96}

Interval = tuple[float, float]
Floats = npt.NDArray[np.float64]
PerImage = npt.NDArray[np.int64]  # (N, 3, K): true positives, label pixels and predicted pixels (`metrics.class_counts`)
Statistic = Callable[[npt.NDArray[np.generic]], Floats]  # counts (..., 3, K) to scores (..., S)


class Blocks:
    """Resamples of the images of one data set, the same for every model, so that differences are paired.

    `drives` names the drive or city of each image, in the order of the data set. With ten or more of them whole ones are
    drawn, and the intervals are for other drives, too. Otherwise blocks of consecutive frames are, circular within their
    drive (Politis and Romano 1992, "A circular block-resampling procedure for stationary data"), of each drive of fifty
    images or more as many as it has: what is said then is about more pictures of the same drives or cities.
    """

    def __init__(self, drives: Sequence[str]) -> None:
        _, code, sizes = np.unique(drives, return_inverse=True, return_counts=True)
        self.images, self.drives = len(drives), len(sizes)
        self.whole_drives = self.drives >= MANY
        self.order = np.argsort(code, kind="stable")  # a drive's images side by side
        self.code = code[self.order]
        self.size = sizes[self.code]
        self.start = (np.cumsum(sizes) - sizes)[self.code]
        layer = np.where(self.size >= LONG, self.code, self.drives)  # a long drive each, and all short ones together
        self.layers = [np.arange(self.images)] if self.whole_drives else [np.flatnonzero(layer == n) for n in np.unique(layer)]
        self.short = self.drives > 1 and int(self.size.max()) < LONG
        self._weights: dict[int, Floats] = {}

    def _draw(self, layer: npt.NDArray[np.int64], length: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Blocks of images that begin anywhere in a layer, as many as it has images: (RESAMPLES, n)."""
        length = self._length_in(layer, length)
        first = layer[rng.integers(len(layer), size=(RESAMPLES, -(-len(layer) // length), 1))]
        inside = (first - self.start[first] + np.arange(length)) % self.size[first]
        return (self.start[first] + inside).reshape(RESAMPLES, -1)[:, : len(layer)]

    def length(self, series: Floats) -> int:
        """Images in a block for a series (N,): four times the lag from which its autocorrelation is below 2/sqrt(N).

        1 where neighbours are not alike, or whole drives are drawn. At most a third of the largest layer; where all of several
        drives are short, as many as the longest has, and at most half of all.

        The lag is that of Politis and White 2004 ("Automatic block-length selection for the dependent bootstrap", section
        3.2), with 2 where they have 1.96 sqrt(log10 N) and one lag where they ask for several, because a film is smooth.
        """
        x = (series - self._level(series))[self.order]
        variance = float(x @ x)
        largest = max(map(len, self.layers))
        longest = max(1, min(int(self.size.max()), self.images // 2) if self.short else largest // 3)
        if self.whole_drives or variance == 0:
            return 1
        for lag in range(1, longest):
            together = self.code[lag:] == self.code[:-lag]
            if float(x[:-lag] @ (x[lag:] * together)) / variance < 2 / self.images**0.5:
                return 1 if lag == 1 else min(PER_BLOCK * lag, longest)
        return longest

    def _level(self, series: Floats) -> Floats:
        """What the autocorrelation of a series (N,) is around: the mean of each long drive, and for short ones that of all.

        That cities differ would look like an autocorrelation that never ends: blocks would be as long as they, and two or
        three of them tell nothing. A short drive whose frames are alike tells its mean no better than one frame does.
        """
        level = np.full(self.images, series.mean())
        sums = np.bincount(self.code, series[self.order])
        level[self.order] = np.where(self.size >= LONG, sums[self.code] / self.size, level[self.order])
        return level

    def lengths(self, influence: Floats) -> npt.NDArray[np.int64]:
        """The `length` of each column of an `influence` (N, S): (S,), 0 where it is undefined."""
        return np.array([self.length(series) if np.isfinite(series).all() else 0 for series in influence.T])

    def correction(self, length: int, influence: Floats) -> tuple[Floats, Floats]:
        """What the variance of resamples in blocks of `length` has to be multiplied by, and its degrees of freedom, (S,) each,
        for scores with this `influence` (N, S).

        B blocks of a layer take B / (B - 1), and have B - 1 degrees. What layers share in the variance decides how they are
        put together (Welch 1947, Satterthwaite 1946): a class may be in one drive only.
        """
        weights = self.weights(length)
        numbers = np.array([[self._number(layer, length)] for layer in self.layers])
        mine = [self.order[layer] for layer in self.layers]
        variances = np.stack([(weights[:, images] @ influence[images]).var(0) for images in mine])
        larger = variances * numbers / (numbers - 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            factor, freedom = larger.sum(0) / variances.sum(0), larger.sum(0) ** 2 / (larger**2 / (numbers - 1)).sum(0)
        none = variances.sum(0) == 0  # nothing varies
        return np.where(none, 1.0, factor), np.where(none, (numbers - 1).sum(), freedom)

    def _number(self, layer: npt.NDArray[np.int64], length: int) -> float:
        return float(self.drives) if self.whole_drives else max(2.0, len(layer) / self._length_in(layer, length))

    def _length_in(self, layer: npt.NDArray[np.int64], length: int) -> int:
        return length if self.short else max(1, min(length, len(layer) // 3))

    def weights(self, length: int) -> Floats:
        """How often each image stands in each resample, (RESAMPLES, N), the same at every call."""
        if length not in self._weights:
            while len(self._weights) >= KEPT:
                self._weights.pop(next(iter(self._weights)))
            rng = np.random.default_rng(length)
            if self.whole_drives:
                drawn = _tally(rng.integers(self.drives, size=(RESAMPLES, self.drives)), self.drives)[:, self.code]
            else:
                drawn = _tally(np.hstack([self._draw(layer, length, rng) for layer in self.layers]), self.images)
            self._weights[length] = np.empty((RESAMPLES, self.images))
            self._weights[length][:, self.order] = drawn
        return self._weights[length]


def _tally(chosen: npt.NDArray[np.int64], columns: int) -> Floats:
    cells = np.arange(len(chosen))[:, None] * columns + chosen
    return np.bincount(cells.ravel(), minlength=len(chosen) * columns).reshape(-1, columns).astype(np.float64)


@dataclass(frozen=True)
class Estimate:
    """Scores or differences (S,), NaN where undefined, with their standard errors and degrees of freedom.

    An error is NaN where the images don't tell: there are too few, or too few that hold what the score is about.
    """

    value: Floats
    error: Floats
    freedom: Floats

    def half_widths(self) -> Floats:
        """Half the width of a symmetric 95 % interval, (S,)."""
        return student(self.freedom) * self.error


def estimate(blocks: Blocks, terms: Sequence[tuple[float, PerImage]], statistic: Statistic = leading) -> Estimate:
    """A weighted sum of the scores of several models: one model has the term (1, counts), a difference has 1 and -1.

    The variance is that of the resamples, made larger by the number of blocks over the degrees of freedom, and without most
    of what blocks cut off from the autocorrelation: twice the one of blocks of L less the one of blocks of L / 2 is the
    flat-top estimate of Politis and White 2004. Where that is less than the first, the first is taken.
    """

    def combined(of: Callable[[PerImage], Floats]) -> Floats:
        return np.sum([factor * of(counts) for factor, counts in terms], axis=0)  # type: ignore[no-any-return]

    def variances(length: int, mine: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
        weights = blocks.weights(length)
        draws = combined(lambda counts: statistic(np.tensordot(weights, counts, axes=1)))
        known = np.isfinite(draws[:, mine]).mean(0) >= 1 - UNDEFINED
        factor, degrees = blocks.correction(length, moved[:, mine])
        return np.where(known, np.nanvar(draws[:, mine], axis=0) * factor, np.nan), degrees

    value = combined(lambda counts: statistic(counts.sum(0)))
    error, freedom = np.full(len(value), np.nan), np.full(len(value), np.nan)
    moved = combined(lambda counts: influence(counts, statistic))
    lengths = blocks.lengths(moved)
    if len(moved) < 2:
        return Estimate(value, error, freedom)
    for length in sorted(set(lengths) - {0}):
        mine = lengths == length
        variance, degrees = variances(length, mine)
        if length > 1:
            variance = np.maximum(variance, 2 * variance - variances(length // 2, mine)[0])
        error[mine], freedom[mine] = variance**0.5, degrees
    error[(error < NOTHING) & (value != 0)] = np.nan  # all images alike: what others are like can't be told
    return Estimate(value, error, freedom)


def influence(counts: PerImage, statistic: Statistic = leading) -> Floats:
    """How much each image moves the scores, (N, S): their derivative by the image's weight, by a small difference."""
    total, step = counts.sum(0), 1e-3
    moved: Floats = (statistic(total + step * counts) - statistic(total)) / step
    return moved


def student(freedom: Floats) -> Floats:
    """Student's 97.5 % quantile for each of some degrees of freedom, 1 or more."""
    known = np.array(list(STUDENT))
    result: Floats = np.interp(1 / freedom, 1 / known[::-1], list(STUDENT.values())[::-1])
    return result


def score_intervals(blocks: Blocks, counts: PerImage, statistic: Statistic = leading) -> list[Interval | None]:
    """95 % intervals of the scores of one model; None where a score is undefined or the images don't tell.

    They don't where there are too few of them, or where all are alike in it: a class that was found on none, or everywhere.

    They are symmetric in the logit, so that none leaves 0..1. In simulated films they cover the truth in 93 to 97 % of
    the cases (a test); in 92 % where the whole film is worth no more than five independent frames, and in 89 to 98 % where
    three of eleven classes are on a tenth of the frames only.
    """
    found = estimate(blocks, [(1.0, counts)], statistic)
    result: list[Interval | None] = []
    for p, half in zip(found.value, found.half_widths(), strict=True):
        if not (np.isfinite(half) and 0 < p < 1):
            result.append(None)
            continue
        odds, reach = np.log(p / (1 - p)), half / (p * (1 - p))
        result.append((float(1 / (1 + np.exp(reach - odds))), float(1 / (1 + np.exp(-reach - odds)))))
    return result


def intervals(counts: PerImage, drives: Sequence[str]) -> dict[str, Interval | None]:
    """95 % intervals of the scores of one model by the names of `metrics.SCORES`; see `Blocks` for `drives`."""
    return dict(zip(SCORES, score_intervals(Blocks(drives), counts), strict=True))
