"""Bilinear upsampling of logits followed by argmax, computed only at the boundaries between classes."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from core.images.resize import Size

Array = npt.NDArray[np.float32]
MAX_BOUNDARY_FRACTION = 0.5  # above this fraction of boundary cells, the dense computation is faster


def upsample_argmax(logits: Array, size: Size) -> npt.NDArray[np.uint8]:
    """Upsample logits (K, h, w) float32 bilinearly (half-pixel centers) to `size` = (H, W) and return the argmax, uint8.

    Four neighboring logits enclose a cell of output pixels. If their argmax is the same class, every bilinear mixture
    of them has that argmax too. So only boundary cells are interpolated, about 6 % of a street scene, and in each of
    them only the classes that can win. Of equal logits the lowest class index wins, as in numpy.argmax; if the two best
    logits of a pixel differ by no more than the rounding error, either class can result.
    """
    best = _argmax(logits)
    if size == best.shape:
        return best
    if size[0] < best.shape[0] or size[1] < best.shape[1]:
        return _argmax_dense(logits, size)
    rows, columns = _AxisGrid.between(best.shape[0], size[0]), _AxisGrid.between(best.shape[1], size[1])
    boundary = _boundary_cells(best) & (rows.count > 0)[:, None] & (columns.count > 0)
    if boundary.mean() > MAX_BOUNDARY_FRACTION:
        return _argmax_dense(logits, size)
    labels = best.take(columns.low[columns.cell_of_pixel], 1).take(rows.low[rows.cell_of_pixel], 0)
    i, j = np.nonzero(boundary)
    _argmax_cells(logits, rows, columns, i, j, labels)
    return labels


@dataclass
class _AxisGrid:
    """The cells between neighboring logits along one axis, including one before the first logit and one after the last.

    n is the number of logits, N the number of pixels, and m the largest number of pixels in a cell.
    """

    low: npt.NDArray[np.intp]  # (n + 1,) index of the logit at the start of each cell
    high: npt.NDArray[np.intp]  # (n + 1,) index of the logit at its end
    cell_of_pixel: npt.NDArray[np.intp]  # (N,) index of the cell of each pixel
    count: npt.NDArray[np.intp]  # (n + 1,) number of pixels in each cell
    pixels: npt.NDArray[np.intp]  # (n + 1, m) indices of these pixels, padded with the last one
    weights: npt.NDArray[np.float32]  # (n + 1, m) interpolation weight of `high` at each of them, 0..1

    @classmethod
    def between(cls, in_size: int, out_size: int) -> _AxisGrid:
        """Return the grid of an axis of `in_size` logits that is upsampled to `out_size` pixels."""
        position = (np.arange(out_size) + 0.5) * (in_size / out_size) - 0.5
        floor = np.floor(position)
        cell_of_pixel = floor.astype(np.intp) + 1
        count = np.bincount(cell_of_pixel, minlength=in_size + 1)
        first = np.cumsum(count) - count
        steps = np.minimum(np.arange(count.max()), np.maximum(count, 1)[:, None] - 1)
        pixels = np.minimum(first[:, None] + steps, out_size - 1)
        cells = np.arange(in_size + 1)
        low, high = np.maximum(cells - 1, 0), np.minimum(cells, in_size - 1)
        return cls(low, high, cell_of_pixel, count, pixels, (position - floor).astype(np.float32)[pixels])


def _argmax(logits: Array) -> npt.NDArray[np.uint8]:
    """Return the argmax over the classes, (h, w) uint8, several times as fast as numpy.argmax."""
    best, labels = logits[0].copy(), np.zeros(logits.shape[1:], np.uint8)
    for k in range(1, len(logits)):
        np.copyto(labels, np.uint8(k), where=logits[k] > best)
        np.maximum(best, logits[k], out=best)
    return labels


def _boundary_cells(best: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return which cells (h + 1, w + 1) have corners of different classes."""
    padded = np.pad(best, 1, "edge")
    horizontal = padded[:, 1:] != padded[:, :-1]
    vertical = padded[1:] != padded[:-1]
    boundary: npt.NDArray[np.bool_] = horizontal[1:] | horizontal[:-1] | vertical[:, 1:] | vertical[:, :-1]
    return boundary


def _argmax_cells(
    logits: Array,
    rows: _AxisGrid,
    columns: _AxisGrid,
    i: npt.NDArray[np.intp],
    j: npt.NDArray[np.intp],
    labels: npt.NDArray[np.uint8],
) -> None:
    """Overwrite the pixels of `labels` (H, W) in the cells with row indices `i` (n,) and column indices `j` (n,).

    The cells are the last axis of all arrays, so that numpy computes on long contiguous rows.
    """
    width = logits.shape[2]
    # Flat indices of the corners (4, n): upper left, upper right, lower left, lower right.
    corners = np.stack([row[i] * width + column[j] for row in (rows.low, rows.high) for column in (columns.low, columns.high)])
    values = logits.reshape(len(logits), -1).take(corners, axis=1)  # (K, 4, n)
    # A class can't win anywhere in a cell if its highest corner is below the lowest corner of another class.
    candidates = values.max(1) >= values.min(1).max(0)  # (K, n)
    counts = candidates.sum(0)
    order = np.argsort(-counts, kind="stable")  # Cells with more candidates come first: each round below has a prefix of them.
    i, j, counts = i[order], j[order], counts[order]
    classes = np.nonzero(candidates.T[order])[1].astype(np.uint8)  # the candidates of the first cell, of the second, ...
    first = np.cumsum(counts) - counts  # index in `classes` of the first candidate of each cell
    down, right = (np.ascontiguousarray(axis.weights[cells].T) for axis, cells in ((rows, i), (columns, j)))  # (r, n), (s, n)
    best = np.full((len(down), *right.shape), -np.inf, np.float32)
    winners = np.zeros(best.shape, np.uint8)
    for number in range(counts.max(initial=0)):
        n = np.count_nonzero(counts > number)
        class_ = classes[first[:n] + number]
        upper_left, upper_right, lower_left, lower_right = values[class_, :, order[:n]].T
        left_edge = upper_left + (lower_left - upper_left) * down[:, None, :n]
        right_edge = upper_right + (lower_right - upper_right) * down[:, None, :n]
        interpolated = left_edge + (right_edge - left_edge) * right[:, :n]
        is_better = interpolated > best[..., :n]
        np.maximum(best[..., :n], interpolated, out=best[..., :n])
        # Arithmetic modulo 256 selects several times as fast as a masked copy.
        winners[..., :n] += (class_ - winners[..., :n]) * is_better
    pixels = (rows.pixels[i].T * labels.shape[1])[:, None] + columns.pixels[j].T
    labels.reshape(-1)[pixels] = winners


def _argmax_dense(logits: Array, size: Size) -> npt.NDArray[np.uint8]:
    """Resize the channels one at a time, so that two of them are in memory instead of K, and return the argmax."""
    width_height = (size[1], size[0])
    best = cv2.resize(logits[0], width_height, interpolation=cv2.INTER_LINEAR)
    labels = np.zeros(size, np.uint8)
    for k in range(1, len(logits)):
        channel = cv2.resize(logits[k], width_height, interpolation=cv2.INTER_LINEAR)
        np.copyto(labels, np.uint8(k), where=channel > best)
        np.maximum(best, channel, out=best)
    return labels


def upsample_confidence(logits: Array, size: Size, temperature: float = 1.0) -> npt.NDArray[np.float32]:
    """Return the probability (H, W) float32, 1/K..1, of the class that `upsample_argmax` assigns to each pixel.

    It is the largest softmax of the logits (K, h, w) float32 upsampled to `size` = (H, W) and divided by `temperature`.
    """
    if temperature != 1:
        logits = logits / np.float32(temperature)
    width_height = (size[1], size[0])
    best, total = np.full(size, -np.inf, np.float32), np.zeros(size, np.float32)
    for channel in logits:
        upsampled = cv2.resize(channel, width_height, interpolation=cv2.INTER_LINEAR).astype(np.float32, copy=False)
        # Rescale the running sum of exponentials to the new maximum, so that no exponential overflows.
        maximum = np.maximum(best, upsampled)
        total = total * np.exp(best - maximum) + np.exp(upsampled - maximum)
        best = maximum
    return np.reciprocal(total)
