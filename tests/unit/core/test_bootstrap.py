"""Tests of core.evaluation.bootstrap: coverage of the intervals on simulated, autocorrelated sequences."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from core.evaluation.bootstrap import (
    T_QUANTILES_975,
    BlockBootstrap,
    confidence_intervals,
    estimate,
    score_intervals,
    t_quantile,
)
from core.evaluation.metrics import SCORE_NAMES, one_vs_rest_scores, score_vector

TRIALS = int(os.environ.get("BOOTSTRAP_TRIALS", "300"))  # `make soak` runs 2000
FRAMES = 101
K = 11
FAST_SCORES = ("pixel_accuracy", "miou_present", "macro_sensitivity", "micro_iou")  # what `fast_scores` returns
Sampler = Callable[[int], np.ndarray]  # n -> n series, (n, frames), of mean 0 and variance 1
Process = Callable[[np.random.Generator, int], Sampler]  # a random process: (generator, frames) -> sampler of its series


def smooth(rng: np.random.Generator, frames: int) -> Sampler:
    """Sample Gaussian-filtered noise, like class fractions in a video: lag-1 autocorrelation 0.98, 101 frames are worth 9."""
    kernel = np.exp(-((np.arange(-20, 21) / 5) ** 2))
    kernel /= np.sqrt((kernel**2).sum())
    response = np.zeros((frames + 40, frames))
    for n in range(frames):
        response[n : n + 41, n] = kernel
    return lambda count: rng.standard_normal((count, frames + 40)) @ response


def autoregressive(rng: np.random.Generator, frames: int) -> Sampler:
    """Sample a first-order autoregressive process with coefficient 0.7: 101 frames are worth 18."""

    # Row j holds the response to the noise of frame j; the later noise is scaled so that the variance stays 1.
    lag = np.arange(frames) - np.arange(frames)[:, None]
    response = np.where(lag >= 0, 0.7 ** np.abs(lag), 0)
    response[1:] *= 0.51**0.5
    return lambda count: rng.standard_normal((count, frames)) @ response


def independent(rng: np.random.Generator, frames: int) -> Sampler:
    """Sample white noise."""
    return lambda count: rng.standard_normal((count, frames))


def simulate_labels(sampler: Sampler) -> np.ndarray:
    """Return label pixels (K, frames): some classes cover most of the image, others few pixels."""
    weight = np.exp(np.linspace(3, -2, K)[:, None] + 0.7 * sampler(K))
    return (weight / weight.sum(0) * 1e5).round()


def simulate_model(sampler: Sampler, label_pixels: np.ndarray, skill: np.ndarray) -> np.ndarray:
    """Return counts (frames, 3, K) of a model whose sensitivity for each class varies from frame to frame."""
    sensitivity = 1 / (1 + np.exp(-(skill[:, None] + 0.7 * sampler(K) + 0.5 * sampler(1))))
    true = (label_pixels * sensitivity).round()
    wrong = np.exp(0.4 * sampler(K)) * label_pixels.mean(1, keepdims=True) ** 0.5
    predicted = true + (wrong / wrong.sum(0) * (label_pixels - true).sum(0)).round()
    return np.stack((true, label_pixels, predicted)).transpose(2, 0, 1).astype(np.int64)


def fast_scores(counts: np.ndarray) -> np.ndarray:
    """Return FAST_SCORES, if every class is labeled: four of the twelve scores in a third of the time."""
    true, labeled, predicted = counts[..., 0, :].astype(float), counts[..., 1, :].astype(float), counts[..., 2, :]
    correct, total = true.sum(-1), labeled.sum(-1)
    iou, sensitivity = (true / (labeled + predicted - true)).mean(-1), (true / labeled).mean(-1)
    return np.stack((correct / total, iou, sensitivity, correct / (2 * total - correct)), -1)


def one_class_counts(true: np.ndarray, labeled: int = 1000) -> np.ndarray:
    """Return counts (N, 3, 1) of a single class: `true` (N,) of `labeled` pixels in each image are found, none is wrong."""
    return np.stack((true, np.full_like(true, labeled), true), 1)[..., None]


def true_pixels(logit: np.ndarray, labeled: int = 1000) -> np.ndarray:
    """Return the number of true positives in each image (N,), from the logit of the sensitivity."""
    return (labeled / (1 + np.exp(-logit))).round().astype(np.int64)


@pytest.mark.parametrize("process", [smooth, autoregressive, independent])
def test_intervals_cover_true_value(process: Process) -> None:
    """The intervals of scores and of paired differences have a coverage of 95 %, within 2 % and the noise of the trials."""
    skills = np.linspace(2, -0.5, K), np.linspace(1.8, -0.4, K)
    sampler, blocks = process(np.random.default_rng(1), FRAMES), BlockBootstrap(["video"] * FRAMES)
    totals = np.zeros((2, 3, K))
    for _ in range(1000):  # The true scores are those of a much longer video.
        label_pixels = simulate_labels(sampler)
        totals += [simulate_model(sampler, label_pixels, skill).sum(0) for skill in skills]
    expected = fast_scores(totals)
    assert expected == pytest.approx(score_vector(totals)[:, [SCORE_NAMES.index(name) for name in FAST_SCORES]])

    covered_scores, covered_differences = np.zeros(len(FAST_SCORES)), np.zeros(len(FAST_SCORES))
    for _ in range(TRIALS):
        label_pixels = simulate_labels(sampler)
        a, b = (simulate_model(sampler, label_pixels, skill) for skill in skills)
        intervals = np.array(score_intervals(blocks, a, fast_scores))
        covered_scores += (intervals[:, 0] <= expected[0]) & (expected[0] <= intervals[:, 1])
        difference = estimate(blocks, [(1, a), (-1, b)], fast_scores)
        covered_differences += abs(difference.value - (expected[0] - expected[1])) <= difference.half_widths()
    tolerance = 0.02 if TRIALS >= 2000 else 0.02 + 2 * (0.95 * 0.05 / TRIALS) ** 0.5
    for kind, covered in (("score", covered_scores), ("difference", covered_differences)):
        for name, coverage in zip(FAST_SCORES, covered / TRIALS, strict=True):
            assert coverage == pytest.approx(0.95, abs=tolerance), (kind, name)


def test_difference_of_paired_models_is_narrower_than_scores() -> None:
    """Two models that fail on the same frames: their difference is known much better than either score."""
    rng = np.random.default_rng(2)
    difficulty, blocks = smooth(rng, FRAMES)(1)[0], BlockBootstrap(["video"] * FRAMES)
    a, b = (one_class_counts(true_pixels(skill + difficulty + 0.05 * rng.standard_normal(FRAMES))) for skill in (1.2, 1.0))
    single = estimate(blocks, [(1, a)]).half_widths()[0]
    assert estimate(blocks, [(1, a), (-1, b)]).half_widths()[0] < single / 5


def test_intervals_of_many_sequences_cover_true_value() -> None:
    """Twenty sequences of nearly identical frames: the width follows from their number, not from that of the frames."""
    rng = np.random.default_rng(3)
    sequence = np.repeat(np.arange(20), 15)
    blocks = BlockBootstrap([f"drive {n:02}" for n in sequence])
    covered = 0
    for _ in range(500):
        counts = one_class_counts(true_pixels(rng.standard_normal(20))[sequence])
        low, high = score_intervals(blocks, counts)[0] or (0, 0)
        covered += low <= 0.5 <= high
    assert 0.92 <= covered / 500 <= 0.98


@pytest.mark.parametrize("num_sequences", [3, 5, 9])
def test_intervals_of_few_sequences_cover_true_value(num_sequences: int) -> None:
    """Sequences of different difficulty with similar frames: each sequence is worth about one observation."""
    rng = np.random.default_rng(4)
    sequence = np.repeat(np.arange(num_sequences), 15)
    blocks = BlockBootstrap([f"drive {n:02}" for n in sequence])
    covered = 0
    for _ in range(500):
        logit = rng.standard_normal(num_sequences)[sequence] + 0.3 * rng.standard_normal(len(sequence))
        low, high = score_intervals(blocks, one_class_counts(true_pixels(logit)))[0] or (0, 0)
        covered += low <= 0.5 <= high
    assert 0.92 <= covered / 500 <= 0.99


@pytest.mark.parametrize(("process", "max_width"), [(independent, 0.03), (autoregressive, 0.07)])
def test_difference_between_cities_is_no_autocorrelation(process: Process, max_width: float) -> None:
    """The three cities of Cityscapes val, some eight points harder than others; the true value is that of more of the same."""
    rng, sizes = np.random.default_rng(5), (267, 59, 174)
    skill = np.repeat([0.4, 0.8, 1.2], sizes)
    blocks = BlockBootstrap(np.repeat(["frankfurt", "lindau", "munster"], sizes).tolist())

    def sensitivity(z: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-skill - 0.6 * z))

    expected = np.mean([sensitivity(rng.standard_normal(500)) for _ in range(4000)])
    samplers = [process(rng, size) for size in sizes]
    covered, widths = 0, []
    for _ in range(300):
        z = np.concatenate([sampler(1)[0] for sampler in samplers])
        low, high = score_intervals(blocks, one_class_counts((1000 * sensitivity(z)).round().astype(np.int64)))[0] or (0, 0)
        covered += low <= expected <= high
        widths.append(high - low)
    assert 0.92 <= covered / 300 <= 0.98 and np.median(widths) < max_width


@pytest.mark.parametrize("sizes", [(250, 50), (200, 200, 100)])
def test_class_of_one_sequence_has_interval_of_that_sequence(sizes: tuple[int, ...]) -> None:
    """Other sequences say nothing about a class that they do not contain, so they must not narrow its interval."""
    rng, size = np.random.default_rng(7), sizes[-1]
    sampler, others = autoregressive(rng, size), sum(sizes[:-1])
    all_blocks = BlockBootstrap(np.repeat(["a", "b", "c"][: len(sizes)], sizes).tolist())
    one_block = BlockBootstrap(["c"] * size)
    labeled = np.stack((np.full(others + size, 5000), np.repeat([0, 1000], [others, size])), 1)
    expected = (1 / (1 + np.exp(-0.8 - 0.6 * rng.standard_normal(100_000)))).mean()
    covered, widths = np.zeros(2), np.zeros((2, 200))
    for trial in range(200):
        true = labeled.copy()
        true[others:, 1] = (1000 / (1 + np.exp(-0.8 - 0.6 * sampler(1)[0]))).round()
        counts = np.stack((true, labeled, true), 1)
        for row, (blocks, part) in enumerate(((all_blocks, counts), (one_block, counts[others:]))):
            ious = score_intervals(blocks, part, lambda c: one_vs_rest_scores(c, c[..., 1, :].sum(-1))["iou"])
            low, high = ious[1] or (0, 1)
            covered[row] += low <= expected <= high
            widths[row, trial] = high - low
    assert covered[0] / 200 >= 0.9 and abs(covered[0] - covered[1]) / 200 <= 0.06
    assert np.median(widths[0]) == pytest.approx(np.median(widths[1]), rel=0.3)


def test_blocks_are_runs_within_a_sequence() -> None:
    """Fifty frames in five blocks of ten: in each sequence the resampled frames form runs, circular, of tens of frames."""
    weights = BlockBootstrap(["a"] * 30 + ["b"] * 20).weights(10).astype(np.int64)
    assert weights.sum(1).tolist() == [50] * 1000
    for sequence in (slice(0, 30), slice(30, 50)):
        multiplicity = weights[:, sequence]
        assert (multiplicity.sum(1) % 10 == 0).all()  # No block is cut off at the end of the sequence.
        run_starts = np.clip(multiplicity - np.roll(multiplicity, 1, axis=1), 0, None).sum(1)
        assert (run_starts <= multiplicity.sum(1) / 10).all()
        single_block = multiplicity[multiplicity.sum(1) == 10]
        assert (single_block[:, 0] * single_block[:, -1] > 0).any()  # Some blocks wrap around the end.


@pytest.mark.parametrize("num_sequences", [1, 3, 20])
def test_resamples_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch, num_sequences: int) -> None:
    counts = np.random.default_rng(0).integers(1, 1000, (200, 1, 3)).repeat(3, 1).cumsum(1)
    sequences = sorted(str(n % num_sequences) for n in range(200))
    whole = BlockBootstrap(sequences)
    weights, expected = whole.weights(5), estimate(whole, [(1, counts)])
    monkeypatch.setattr("core.evaluation.bootstrap.CHUNK_ELEMENTS", 200 * 300)
    chunked = BlockBootstrap(sequences)
    assert np.array_equal(chunked.weights(5), weights)
    actual = estimate(chunked, [(1, counts)]).standard_error
    assert np.isfinite(actual).any() and np.allclose(actual, expected.standard_error, rtol=1e-12, equal_nan=True)


def test_resamples_of_many_images_take_little_memory() -> None:
    """A thousand resamples of 20,000 images, as numbers of eight bytes, would take 160 MB each time they are held."""
    blocks = BlockBootstrap(["video"] * 20_000)
    tracemalloc.start()
    blocks.weights(10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 250e6


def test_memory_of_cached_resamples_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = BlockBootstrap(["video"] * 100)
    size = blocks.weights(1).nbytes
    monkeypatch.setattr("core.evaluation.bootstrap.MAX_CACHED_BYTES", 3 * size)
    for length in range(1, 10):
        blocks.weights(length)
    assert list(blocks._weights) == [7, 8, 9]


def test_order_of_sequences_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 1000, (40, 1, 3)).repeat(3, 1)
    counts[:, 0] //= 2
    names = ["a", "b"] * 20
    order = np.argsort(names, kind="stable")
    assert confidence_intervals(counts, names) == confidence_intervals(counts[order], sorted(names))


def test_intervals_narrow_with_more_images() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for images in (20, 500):
        true = rng.binomial(1000, 0.8, (images, 2))
        counts = np.stack([true, np.full_like(true, 1000), true + (1000 - true)[:, ::-1]], axis=1)
        low, high = confidence_intervals(counts, ["a"] * images)["pixel_accuracy"] or (0, 0)
        assert low < true.sum() / (2000 * images) < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 3


def test_intervals_stay_within_0_and_1() -> None:
    counts = one_class_counts(np.array([999, 1000, 600]))
    low, high = confidence_intervals(counts, ["a"] * 3)["pixel_accuracy"] or (0, 0)
    assert 0 < low < 0.87 < high < 1


def test_single_image_has_no_interval() -> None:
    assert set(confidence_intervals(np.ones((1, 3, 2), np.int64), ["a"]).values()) == {None}


@pytest.mark.parametrize("true", [0, 2, 5])
def test_identical_images_have_no_interval(true: int) -> None:
    """Without variation nothing is known about other images; an interval of width zero would be wrong."""
    counts = np.stack((np.full((5, 2), true), np.full((5, 2), 5), np.full((5, 2), true)), 1)
    assert confidence_intervals(counts, ["a"] * 5)["miou"] is None


def test_class_in_one_image_has_no_interval() -> None:
    counts = np.random.default_rng(0).integers(5, 10, (40, 1, 2)).repeat(3, 1)
    counts[:, 0] = 4
    counts[1:, :, 1] = 0
    first, second = score_intervals(BlockBootstrap(["a"] * 40), counts, lambda c: one_vs_rest_scores(c, 1000)["iou"])
    assert first is not None and second is None


def test_block_length_grows_with_autocorrelation() -> None:
    noise, blocks = np.random.default_rng(0).normal(size=400), BlockBootstrap(["a"] * 400)
    assert blocks.block_length(noise) <= 12
    assert blocks.block_length(np.convolve(noise, np.ones(20), "same")) >= 40


def test_t_quantiles_match_table() -> None:
    """Source: Abramowitz and Stegun 1972, table 26.10; also between the values that are stored."""
    table = {3: 3.182, 7: 2.365, 12: 2.179, 15: 2.131, 30: 2.042, 120: 1.980}
    assert t_quantile(np.array(list(table), float)) == pytest.approx(list(table.values()), rel=0.01)
    assert t_quantile(np.array(list(T_QUANTILES_975), float)) == pytest.approx(list(T_QUANTILES_975.values()))
