"""Intervals: they cover the truth as often as they say, on simulated films whose frames are alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from core.evaluation.bootstrap import STUDENT, Blocks, estimate, intervals, score_intervals, student
from core.evaluation.metrics import SCORES, five_scores, leading

CASES = 2000
FRAMES = 101
K = 11
Series = Callable[[int], np.ndarray]  # how many series -> (that many, frames), of mean 0 and variance 1


def smooth(rng: np.random.Generator, frames: int) -> Series:
    """Series like the shares of classes in a film: autocorrelation 0.98 at one frame, 101 frames are worth 9."""
    kernel = np.exp(-((np.arange(-20, 21) / 5) ** 2))
    kernel /= np.sqrt((kernel**2).sum())
    return lambda count: np.stack([np.convolve(z, kernel, "valid") for z in rng.standard_normal((count, frames + 40))])


def rough(rng: np.random.Generator, frames: int) -> Series:
    """An autoregressive process of first order, 0.7: 101 frames are worth 18."""

    def draw(count: int) -> np.ndarray:
        x = rng.standard_normal((count, frames))
        for n in range(1, frames):
            x[:, n] = 0.7 * x[:, n - 1] + 0.51**0.5 * x[:, n]
        return x

    return draw


def independent(rng: np.random.Generator, frames: int) -> Series:
    return lambda count: rng.standard_normal((count, frames))


def model(series: Series, labelled: np.ndarray, skill: np.ndarray) -> np.ndarray:
    """Counts (frames, 3, K) of a model that finds of each class a share that changes from frame to frame."""
    found = 1 / (1 + np.exp(-(skill[:, None] + 0.7 * series(K) + 0.5 * series(1))))
    true = (labelled * found).round()
    wrong = np.exp(0.4 * series(K)) * labelled.mean(1, keepdims=True) ** 0.5
    predicted = true + (wrong / wrong.sum(0) * (labelled - true).sum(0)).round()
    return np.stack((true, labelled, predicted)).transpose(2, 0, 1).astype(np.int64)


def street(series: Series) -> np.ndarray:
    """Label pixels (K, frames): some classes fill the picture, others are few pixels."""
    share = np.exp(np.linspace(3, -2, K)[:, None] + 0.7 * series(K))
    return (share / share.sum(0) * 1e5).round()


def few(counts: np.ndarray) -> np.ndarray:
    """Pixel accuracy, macro IoU, macro sensitivity and micro IoU, where every class is labelled: four of the twelve scores,
    in a third of the time, which the 2,000 cases need."""
    true, labelled, predicted = counts[..., 0, :].astype(float), counts[..., 1, :].astype(float), counts[..., 2, :]
    found, all_ = true.sum(-1), labelled.sum(-1)
    iou, sensitivity = (true / (labelled + predicted - true)).mean(-1), (true / labelled).mean(-1)
    return np.stack((found / all_, iou, sensitivity, found / (2 * all_ - found)), -1)


SKILLS = np.linspace(2, -0.5, K), np.linspace(1.8, -0.4, K)


@pytest.mark.parametrize("kind", [smooth, rough, independent])
def test_intervals_cover_the_truth(kind: Callable[[np.random.Generator, int], Series]) -> None:
    """Scores of a model and the paired differences of two on the same frames, in 93 to 97 % of the cases."""
    series, blocks = kind(np.random.default_rng(1), FRAMES), Blocks(["film"] * FRAMES)
    names = ("pixel_accuracy", "macro_iou_labelled", "macro_sensitivity", "micro_iou")
    totals = np.zeros((2, 3, K))
    for _ in range(2000):  # the truth: a film of so many times the length
        labelled = street(series)
        totals += [model(series, labelled, skill).sum(0) for skill in SKILLS]
    truth = few(totals)
    assert truth == pytest.approx(leading(totals)[:, [SCORES.index(name) for name in names]])
    covered, differences = np.zeros(len(names)), np.zeros(len(names))
    for _ in range(CASES):
        labelled = street(series)
        a, b = (model(series, labelled, skill) for skill in SKILLS)
        found = np.array(score_intervals(blocks, a, few))
        covered += (found[:, 0] <= truth[0]) & (truth[0] <= found[:, 1])
        difference = estimate(blocks, [(1, a), (-1, b)], few)
        differences += abs(difference.value - (truth[0] - truth[1])) <= difference.half_widths()
    for name, share in zip((*names, *names), (*covered / CASES, *differences / CASES), strict=True):
        assert 0.93 <= share <= 0.97, (name, covered / CASES, differences / CASES)


def test_differences_are_paired() -> None:
    """Two models that find the same frames hard: their difference is known far better than either score."""
    rng = np.random.default_rng(2)
    hard, blocks = smooth(rng, FRAMES)(1)[0], Blocks(["film"] * FRAMES)
    models = []
    for skill in (1.2, 1.0):
        true = (1000 / (1 + np.exp(-skill - hard - 0.05 * rng.standard_normal(FRAMES)))).round().astype(np.int64)
        models.append(np.stack((true, np.full(FRAMES, 1000), true), 1)[..., None])
    alone = estimate(blocks, [(1, models[0])]).half_widths()[0]
    assert estimate(blocks, [(1, models[0]), (-1, models[1])]).half_widths()[0] < alone / 5


def test_whole_drives_are_drawn_where_there_are_many() -> None:
    """Twenty drives that differ much and whose frames are all alike: their number counts, not that of the frames."""
    rng = np.random.default_rng(3)
    drives, blocks = np.repeat(np.arange(20), 15), Blocks([f"drive {n:02}" for n in np.repeat(np.arange(20), 15)])
    covered = 0
    for _ in range(500):
        true = (1000 / (1 + np.exp(-rng.standard_normal(20)))).round().astype(np.int64)[drives]
        counts = np.stack((true, np.full(300, 1000), true), 1)[..., None]
        low, high = score_intervals(blocks, counts)[0] or (0, 0)
        covered += low <= 0.5 <= high
    assert 0.92 <= covered / 500 <= 0.98


@pytest.mark.parametrize("count", [3, 5, 9])
def test_few_drives_that_differ_are_covered(count: int) -> None:
    """Drives of their own difficulty, frames in them alike: what is known of other drives comes from `count` numbers."""
    rng = np.random.default_rng(4)
    drives = np.repeat(np.arange(count), 15)
    blocks, covered = Blocks([f"drive {n:02}" for n in drives]), 0
    for _ in range(500):
        skill = rng.standard_normal(count)[drives] + 0.3 * rng.standard_normal(len(drives))
        true = (1000 / (1 + np.exp(-skill))).round().astype(np.int64)
        counts = np.stack((true, np.full(len(drives), 1000), true), 1)[..., None]
        low, high = score_intervals(blocks, counts)[0] or (0, 0)
        covered += low <= 0.5 <= high
    assert 0.92 <= covered / 500 <= 0.99


@pytest.mark.parametrize(("kind", "width"), [(independent, 0.03), (rough, 0.07)])
def test_cities_that_differ_do_not_look_like_one_long_film(
    kind: Callable[[np.random.Generator, int], Series], width: float
) -> None:
    """Cityscapes' three of val, where one is eight points harder than another: the truth is of more pictures of the same."""
    rng, sizes = np.random.default_rng(5), (267, 59, 174)
    skill = np.repeat([0.4, 0.8, 1.2], sizes)
    blocks = Blocks(np.repeat(["frankfurt", "lindau", "munster"], sizes).tolist())

    def found(z: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-skill - 0.6 * z))

    truth = np.mean([found(rng.standard_normal(500)) for _ in range(4000)])
    series = [kind(rng, size) for size in sizes]
    covered, widths = 0, []
    for _ in range(300):
        true = (1000 * found(np.concatenate([one(1)[0] for one in series]))).round().astype(np.int64)
        counts = np.stack((true, np.full(500, 1000), true), 1)[..., None]
        low, high = score_intervals(blocks, counts)[0] or (0, 0)
        covered += low <= truth <= high
        widths.append(high - low)
    assert 0.92 <= covered / 300 <= 0.98 and np.median(widths) < width


def test_a_block_is_a_run_of_frames_of_one_drive_around_its_end() -> None:
    """Fifty frames in five blocks of ten: in each drive the drawn frames form runs, wrapping, whose lengths are tens."""
    weights = Blocks(["a"] * 30 + ["b"] * 20).weights(10)
    assert weights.sum(1).tolist() == [50] * 1000
    for drive in (slice(0, 30), slice(30, 50)):
        mine = weights[:, drive]
        assert (mine.sum(1) % 10 == 0).all()  # no block is cut by the drive's end
        begins = np.clip(mine - np.roll(mine, 1, axis=1), 0, None).sum(1)
        assert (begins <= mine.sum(1) / 10).all()
        one = mine[mine.sum(1) == 10]  # one block alone
        assert (one[:, 0] * one[:, -1] > 0).any()  # and some go around the end


def test_the_order_of_the_drives_in_the_data_set_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 1000, (40, 1, 3)).repeat(3, 1)
    counts[:, 0] //= 2
    names = ["a", "b"] * 20
    order = np.argsort(names, kind="stable")
    assert intervals(counts, names) == intervals(counts[order], sorted(names))


def test_intervals_narrow_with_more_images() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for images in (20, 500):
        true = rng.binomial(1000, 0.8, (images, 2))
        counts = np.stack([true, np.full_like(true, 1000), true + (1000 - true)[:, ::-1]], axis=1)
        low, high = intervals(counts, ["a"] * images)["pixel_accuracy"] or (0, 0)
        assert low < true.sum() / (2000 * images) < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 3


def test_one_image_has_no_interval() -> None:
    assert set(intervals(np.ones((1, 3, 2), np.int64), ["a"]).values()) == {None}


@pytest.mark.parametrize("found", [0, 2, 5])
def test_where_all_images_are_alike_nothing_is_known_of_others(found: int) -> None:
    """A class that was found nowhere, or everywhere, on five pictures: no interval of no width."""
    counts = np.stack((np.full((5, 2), found), np.full((5, 2), 5), np.full((5, 2), found)), 1)
    assert intervals(counts, ["a"] * 5)["macro_iou"] is None


def test_a_class_on_one_image_has_no_interval() -> None:
    counts = np.random.default_rng(0).integers(5, 10, (40, 1, 2)).repeat(3, 1)
    counts[:, 0] = 4
    counts[1:, :, 1] = 0
    first, second = score_intervals(Blocks(["a"] * 40), counts, lambda c: five_scores(c, 1000)["iou"])
    assert first is not None and second is None


def test_no_interval_leaves_0_to_1() -> None:
    counts = np.array([[[999], [1000], [999]], [[1000], [1000], [1000]], [[600], [1000], [600]]])
    low, high = intervals(counts, ["a"] * 3)["pixel_accuracy"] or (0, 0)
    assert 0 < low < 0.87 < high < 1


def test_blocks_are_long_where_neighbours_are_alike() -> None:
    rng = np.random.default_rng(0)
    noise, blocks = rng.normal(size=400), Blocks(["a"] * 400)
    assert blocks.length(noise) <= 12
    assert blocks.length(np.convolve(noise, np.ones(20), "same")) >= 40


def test_student_s_quantiles() -> None:
    """Against a table (Abramowitz and Stegun 1972, table 26.10), between the knots too."""
    table = {3: 3.182, 7: 2.365, 12: 2.179, 15: 2.131, 30: 2.042, 120: 1.980}
    assert student(np.array(list(table), float)) == pytest.approx(list(table.values()), rel=0.01)
    assert student(np.array(list(STUDENT), float)) == pytest.approx(list(STUDENT.values()))


@pytest.mark.parametrize("sizes", [(250, 50), (200, 200, 100)])
def test_a_class_of_one_drive_is_known_as_well_as_from_that_drive_alone(sizes: tuple[int, ...]) -> None:
    """The others tell nothing of it, and their blocks must not count for it."""
    rng, own = np.random.default_rng(7), sizes[-1]
    series, others = rough(rng, own), sum(sizes[:-1])
    together, alone = Blocks(np.repeat(["a", "b", "c"][: len(sizes)], sizes).tolist()), Blocks(["c"] * own)
    labelled = np.stack((np.full(others + own, 5000), np.repeat([0, 1000], [others, own])), 1)
    truth = (1 / (1 + np.exp(-0.8 - 0.6 * rng.standard_normal(100_000)))).mean()
    covered, widths = np.zeros(2), np.zeros((2, 200))
    for case in range(200):
        found = labelled.copy()
        found[others:, 1] = (1000 / (1 + np.exp(-0.8 - 0.6 * series(1)[0]))).round()
        counts = np.stack((found, labelled, found), 1)
        for place, (blocks, part) in enumerate(((together, counts), (alone, counts[others:]))):
            intervals_of_classes = score_intervals(blocks, part, lambda c: five_scores(c, c[..., 1, :].sum(-1))["iou"])
            low, high = intervals_of_classes[1] or (0, 1)
            covered[place] += low <= truth <= high
            widths[place, case] = high - low
    assert covered[0] / 200 >= 0.9 and abs(covered[0] - covered[1]) / 200 <= 0.06
    assert np.median(widths[0]) == pytest.approx(np.median(widths[1]), rel=0.3)
