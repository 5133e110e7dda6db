"""Array at the network's size to a label map at the picture's size: bilinear, then argmax, worked out at borders only."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from core.images.resize import Size

Array = npt.NDArray[np.float32]
MIXED_AT_MOST = 0.5  # of the cells: beyond it, working out all of them at once is faster


def label_map(logits: Array, size: Size) -> npt.NDArray[np.uint8]:
    """(K, h, w) float32 logits to (H, W) uint8 class indices: bilinear with half-pixel centres, then argmax.

    Between four neighbours whose best class is the same, every bilinear mix of them has that class too: mixing keeps
    order. So only the cells between neighbours that differ, some 6 % of a street scene, are worked out, and in each of
    them only the classes that can win there. The first of equal logits wins, as in numpy.argmax; pixels whose two best
    logits differ by no more than rounding can be either.
    """
    best = _argmax(logits)
    if size == best.shape:
        return best
    if size[0] < best.shape[0] or size[1] < best.shape[1]:
        return _label_all(logits, size)
    rows, columns = _Cells.along(best.shape[0], size[0]), _Cells.along(best.shape[1], size[1])
    mixed = _differ(best) & (rows.count > 0)[:, None] & (columns.count > 0)
    if mixed.mean() > MIXED_AT_MOST:
        return _label_all(logits, size)
    labels = best.take(columns.low[columns.of], 1).take(rows.low[rows.of], 0)
    i, j = np.nonzero(mixed)
    _label_cells(logits, rows, columns, i, j, labels)
    return labels


@dataclass
class _Cells:
    """The intervals between neighbouring logits along an axis, one before the first and one after the last included."""

    low: npt.NDArray[np.intp]  # (n + 1,) the logit at the beginning of each cell
    high: npt.NDArray[np.intp]  # (n + 1,) and at its end
    of: npt.NDArray[np.intp]  # (N,) the cell of each pixel
    count: npt.NDArray[np.intp]  # (n + 1,) pixels of each cell
    pixels: npt.NDArray[np.intp]  # (n + 1, most) those pixels, the last one repeated
    weights: npt.NDArray[np.float32]  # (n + 1, most) of `high` at them, 0..1

    @classmethod
    def along(cls, inside: int, outside: int) -> _Cells:
        """Of an axis of `inside` logits that becomes `outside` pixels."""
        position = (np.arange(outside) + 0.5) * (inside / outside) - 0.5
        floor = np.floor(position)
        of = floor.astype(np.intp) + 1
        count = np.bincount(of, minlength=inside + 1)
        first = np.cumsum(count) - count
        steps = np.minimum(np.arange(count.max()), np.maximum(count, 1)[:, None] - 1)
        pixels = np.minimum(first[:, None] + steps, outside - 1)
        cells = np.arange(inside + 1)
        low, high = np.maximum(cells - 1, 0), np.minimum(cells, inside - 1)
        return cls(low, high, of, count, pixels, (position - floor).astype(np.float32)[pixels])


def _argmax(logits: Array) -> npt.NDArray[np.uint8]:
    """numpy.argmax over the classes, several times as fast."""
    best, labels = logits[0].copy(), np.zeros(logits.shape[1:], np.uint8)
    for k in range(1, len(logits)):
        np.copyto(labels, np.uint8(k), where=logits[k] > best)
        np.maximum(best, logits[k], out=best)
    return labels


def _differ(best: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which cells (h + 1, w + 1) have corners of different classes."""
    around = np.pad(best, 1, "edge")
    across = around[:, 1:] != around[:, :-1]
    down = around[1:] != around[:-1]
    different: npt.NDArray[np.bool_] = across[1:] | across[:-1] | down[:, 1:] | down[:, :-1]
    return different


def _label_cells(
    logits: Array,
    rows: _Cells,
    columns: _Cells,
    i: npt.NDArray[np.intp],
    j: npt.NDArray[np.intp],
    labels: npt.NDArray[np.uint8],
) -> None:
    """Work out the pixels of the cells in these rows and columns of cells, each (n,)."""
    width = logits.shape[2]
    # corners (4, n): upper left, upper right, lower left, lower right
    corners = np.stack([row[i] * width + column[j] for row in (rows.low, rows.high) for column in (columns.low, columns.high)])
    values = logits.reshape(len(logits), -1)[:, corners]  # (K, 4, n)
    # a class whose highest corner is below another's lowest one wins nowhere in the cell
    possible = values.max(1) >= values.min(1).max(0)
    down, right = rows.weights[i][:, :, None], columns.weights[j][:, None, :]
    found = np.empty((len(i), down.shape[1], right.shape[2]), np.uint8)
    two = possible.sum(0) == 2
    for which, work_out in ((two, _between_two), (~two, _among_many)):
        cells = np.flatnonzero(which)
        found[cells] = work_out(values[:, :, cells], possible[:, cells], down[cells], right[cells])
    labels[rows.pixels[i][:, :, None], columns.pixels[j][:, None, :]] = found


def _between_two(values: Array, possible: npt.NDArray[np.bool_], down: Array, right: Array) -> npt.NDArray[np.uint8]:
    """Labels (n, r, s) of cells in which two classes can win, most of all: the sign of their difference tells which does."""
    first, last = possible.argmax(0), len(possible) - 1 - possible[::-1].argmax(0)
    cells = np.arange(values.shape[2])
    difference = (values[last, :, cells] - values[first, :, cells]).T
    wins = _mix(difference, down, right) > 0
    found: npt.NDArray[np.uint8] = np.where(wins, *(k.astype(np.uint8)[:, None, None] for k in (last, first)))
    return found


def _among_many(values: Array, possible: npt.NDArray[np.bool_], down: Array, right: Array) -> npt.NDArray[np.uint8]:
    """Labels (n, r, s) of cells in which any number of classes can win."""
    best = np.full((values.shape[2], down.shape[1], right.shape[2]), -np.inf, np.float32)
    found = np.zeros(best.shape, np.uint8)
    for k in range(len(values)):
        here = np.flatnonzero(possible[k])
        mix, before = _mix(values[k][:, here], down[here], right[here]), best[here]
        better = mix > before
        best[here] = np.where(better, mix, before)
        found[here] = np.where(better, np.uint8(k), found[here])
    return found


def _mix(corners: npt.NDArray[np.float32], down: Array, right: Array) -> npt.NDArray[np.float32]:
    """Corners (4, n) to the bilinear values (n, r, s) between them, by weights (n, r, 1) and (n, 1, s)."""
    upper_left, upper_right, lower_left, lower_right = corners[:, :, None, None]
    left = upper_left + (lower_left - upper_left) * down
    mixed: npt.NDArray[np.float32] = left + (upper_right + (lower_right - upper_right) * down - left) * right
    return mixed


def _label_all(logits: Array, size: Size) -> npt.NDArray[np.uint8]:
    """Enlarge or shrink every channel whole, one at a time, so that the memory is that of two of them and not of K."""
    width_height = (size[1], size[0])
    best = cv2.resize(logits[0], width_height, interpolation=cv2.INTER_LINEAR)
    labels = np.zeros(size, np.uint8)
    for k in range(1, len(logits)):
        channel = cv2.resize(logits[k], width_height, interpolation=cv2.INTER_LINEAR)
        np.copyto(labels, np.uint8(k), where=channel > best)
        np.maximum(best, channel, out=best)
    return labels


def confidence(logits: Array, size: Size) -> npt.NDArray[np.float32]:
    """(K, h, w) float32 logits to the probability (H, W) float32, 1/K..1, of the class that `label_map` gives each pixel:
    the largest softmax of the enlarged logits."""
    width_height = (size[1], size[0])
    best, total = np.full(size, -np.inf, np.float32), np.zeros(size, np.float32)
    for channel in logits:
        enlarged = cv2.resize(channel, width_height, interpolation=cv2.INTER_LINEAR).astype(np.float32, copy=False)
        top = np.maximum(best, enlarged)
        total = total * np.exp(best - top) + np.exp(enlarged - top)
        best = top
    return np.reciprocal(total)
