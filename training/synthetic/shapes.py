"""Outlines of vehicles and people for the generated scenes: polygons in the unit square, x to the right and y up."""

from __future__ import annotations

from typing import NamedTuple

Polygon = tuple[tuple[float, float], ...]


class Part(NamedTuple):
    """One polygon of a shape; its color is looked up by its role."""

    role: str
    polygon: Polygon
    label: int = 0  # Cityscapes label id; 0: that of the shape


def _box(left: float, bottom: float, right: float, top: float) -> Polygon:
    return (left, bottom), (right, bottom), (right, top), (left, top)


def _octagon(x: float, y: float, width: float, height: float) -> Polygon:
    """Return an octagon that approximates an ellipse with the center (x, y)."""
    a, b = width / 2, height / 2
    return (
        (x + a, y - b / 2), (x + a, y + b / 2), (x + a / 2, y + b), (x - a / 2, y + b),
        (x - a, y + b / 2), (x - a, y - b / 2), (x - a / 2, y - b), (x + a / 2, y - b),
    )  # fmt: skip


CAR = (
    Part("tire", _box(0.05, 0.0, 0.22, 0.3)),
    Part("tire", _box(0.78, 0.0, 0.95, 0.3)),
    Part("paint", ((0.0, 0.15), (1.0, 0.15), (1.0, 0.55), (0.95, 0.62), (0.8, 1.0), (0.2, 1.0), (0.05, 0.62), (0.0, 0.55))),
    Part("glass", ((0.13, 0.62), (0.87, 0.62), (0.76, 0.93), (0.24, 0.93))),
    Part("lamp", _box(0.03, 0.42, 0.17, 0.54)),
    Part("lamp", _box(0.83, 0.42, 0.97, 0.54)),
)
TRUCK = (
    Part("tire", _box(0.08, 0.0, 0.25, 0.2)),
    Part("tire", _box(0.75, 0.0, 0.92, 0.2)),
    Part("tire", _box(0.05, 0.1, 0.95, 0.2)),
    Part("paint", _box(0.0, 0.2, 1.0, 1.0)),
    Part("tire", _box(0.49, 0.22, 0.51, 0.97)),
    Part("tire", _box(0.0, 0.56, 1.0, 0.58)),
    Part("lamp", _box(0.04, 0.12, 0.14, 0.18)),
    Part("lamp", _box(0.86, 0.12, 0.96, 0.18)),
)
BUS = (
    Part("tire", _box(0.08, 0.0, 0.25, 0.15)),
    Part("tire", _box(0.75, 0.0, 0.92, 0.15)),
    Part("paint", ((0.0, 0.08), (1.0, 0.08), (1.0, 0.95), (0.95, 1.0), (0.05, 1.0), (0.0, 0.95))),
    Part("glass", _box(0.08, 0.5, 0.92, 0.85)),
    Part("tire", _box(0.25, 0.88, 0.75, 0.96)),
    Part("lamp", _box(0.04, 0.2, 0.14, 0.34)),
    Part("lamp", _box(0.86, 0.2, 0.96, 0.34)),
)
TRAIN = (
    Part("tire", _box(0.1, 0.0, 0.9, 0.08)),
    Part("paint", ((0.02, 0.06), (0.98, 0.06), (1.0, 0.5), (0.9, 0.95), (0.75, 1.0), (0.25, 1.0), (0.1, 0.95), (0.0, 0.5))),
    Part("glass", ((0.12, 0.45), (0.88, 0.45), (0.8, 0.82), (0.2, 0.82))),
    Part("glass", _box(0.46, 0.1, 0.54, 0.42)),
    Part("lamp", _octagon(0.2, 0.25, 0.12, 0.08)),
    Part("lamp", _octagon(0.8, 0.25, 0.12, 0.08)),
)
MOTORCYCLE = (
    Part("tire", _box(0.38, 0.0, 0.62, 0.55)),
    Part("paint", ((0.25, 0.3), (0.75, 0.3), (0.8, 0.65), (0.65, 0.85), (0.35, 0.85), (0.2, 0.65))),
    Part("tire", _box(0.0, 0.82, 1.0, 0.9)),
    Part("lamp", _octagon(0.5, 0.55, 0.2, 0.14)),
)
BICYCLE = (
    Part("tire", _octagon(0.24, 0.3, 0.5, 0.6)),
    Part("tire", _octagon(0.76, 0.3, 0.5, 0.6)),
    Part("paint", ((0.2, 0.26), (0.5, 0.22), (0.78, 0.28), (0.7, 0.72), (0.34, 0.74))),
    Part("tire", _box(0.6, 0.85, 0.85, 0.92)),
    Part("tire", _box(0.25, 0.78, 0.45, 0.84)),
)
PERSON = (
    Part("skin", _octagon(0.5, 0.92, 0.3, 0.16)),
    Part("shirt", ((0.3, 0.45), (0.7, 0.45), (0.78, 0.83), (0.22, 0.83))),
    Part("shirt", ((0.22, 0.83), (0.1, 0.5), (0.2, 0.46), (0.32, 0.75))),
    Part("shirt", ((0.78, 0.83), (0.9, 0.5), (0.8, 0.46), (0.68, 0.75))),
    Part("legs", ((0.3, 0.47), (0.7, 0.47), (0.75, 0.0), (0.58, 0.0), (0.5, 0.3), (0.42, 0.0), (0.25, 0.0))),
)
