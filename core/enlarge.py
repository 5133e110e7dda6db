"""Logits at the network's size to a label map at the picture's size: bilinear, then argmax."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from core.transforms import Size


def label_map(logits: npt.NDArray[np.float32], size: Size) -> npt.NDArray[np.uint8]:
    """(K, h, w) float32 logits to (H, W) uint8 class indices: bilinear with half-pixel centres, then argmax.

    Channels are enlarged one at a time and the best so far is kept, so that the memory is that of two channels at
    the picture's size, not of K. The first of equal logits wins, as in numpy.argmax.
    """
    width_height = (size[1], size[0])
    best = cv2.resize(logits[0], width_height, interpolation=cv2.INTER_LINEAR)
    labels = np.zeros(size, np.uint8)
    for k in range(1, len(logits)):
        channel = cv2.resize(logits[k], width_height, interpolation=cv2.INTER_LINEAR)
        np.copyto(labels, np.uint8(k), where=channel > best)
        np.maximum(best, channel, out=best)
    return labels


def confidence(logits: npt.NDArray[np.float32], size: Size) -> npt.NDArray[np.float32]:
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
