"""Legend: a strip below an image with the color and the name of each class."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from core.data.labels import LabelSpace
from core.images.decode import RGB
from core.images.encode import LabelMap, count_classes

BACKGROUND, TEXT = (255, 255, 255), (0, 0, 0)


def add_legend(image: RGB, space: LabelSpace, labels: LabelMap | None = None) -> RGB:
    """Return an image (H, W, 3) uint8 RGB with a legend below it, (H + h, W, 3).

    Args:
        space: Names and colors of the classes.
        labels: Class indices (H, W) uint8, of which those that occur are listed, the largest first. By default all classes
            are listed, so that the frames of a video keep one size.
    """
    shown = range(len(space)) if labels is None else list(count_classes(labels, len(space)))
    width = image.shape[1]
    font_size = max(11, min(image.shape[:2]) // 32)
    font = ImageFont.load_default(font_size)
    box, gap, line = font_size, font_size // 2, font_size + font_size // 2
    positions: list[tuple[int, int, int]] = []  # left edge and line of each entry, and its class
    x, row = gap, 0
    for k in shown:
        entry = box + gap + round(font.getlength(space.names[k])) + 2 * gap
        if x > gap and x + entry > width:
            x, row = gap, row + 1
        positions.append((x, row, k))
        x += entry
    strip = Image.new("RGB", (width, (row + 1) * line + gap), BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for x, row, k in positions:
        top = gap + row * line
        draw.rectangle((x, top, x + box, top + box - 1), fill=space.colors[k], outline=TEXT)
        draw.text((x + box + gap, top + box / 2), space.names[k], fill=TEXT, font=font, anchor="lm")
    return np.concatenate((image, np.asarray(strip)))
