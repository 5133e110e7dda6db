"""The plots of a comparison: bars, confusion, reliability, curves and costs, one colour for each model throughout."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from training.comparison.document import Comparison, Model
from training.tracking.curves import FIGURE, column, panels
from training.tracking.history import by_leg
from training.tracking.run_dir import LEADING

COLOURS: list[Any] = list(matplotlib.color_sequences["tab10"])
CAPTIONS = {
    "class_iou": "IoU of each class, with 95 % intervals where the pictures tell them",
    "confusion": "Confusion: of the pixels of a class (row), the share that is taken for each class (column)",
    "reliability": "Reliability: how often a pixel is right, by how sure the model is; void left out",
    "curves": "Loss and scores over the epochs: validation solid, running scores of training crops dotted; a dot marks the"
    " epoch that is compared. Legs of a training stand end to end",
    "iou_speed": "Macro IoU of the labelled classes against milliseconds for a photograph",
    "iou_parameters": "Macro IoU of the labelled classes against the number of parameters",
}
WRITTEN_CLASSES = 20  # up to which the cells of a confusion matrix hold their numbers


def colour(place: int) -> Any:
    """The colour of the model at a place in the comparison."""
    return COLOURS[place % len(COLOURS)]


def written(name: str) -> str:
    """A model's or class's name as matplotlib should write it: no formula, and no word that it leaves out of legends."""
    return "\u200b" * name.startswith("_") + name.replace("$", r"\$")


def plots(comparison: Comparison) -> Iterator[tuple[str, str, Figure]]:
    """Name, what it shows, and the figure itself, one after the other."""
    models = comparison.models
    for name, figure in (("class_iou", class_bars), ("confusion", confusion), ("reliability", reliability)):
        yield name, CAPTIONS[name], figure(models)
    if any(model.history for model in models):
        yield "curves", CAPTIONS["curves"], curves(models)
    speed = cost(models, "milliseconds for a photograph (median)", lambda model: model.cost.median_ms)
    yield "iou_speed", CAPTIONS["iou_speed"], speed
    size = cost(models, "parameters (millions)", lambda model: model.cost.parameters / 1e6)
    yield "iou_parameters", CAPTIONS["iou_parameters"], size


def class_bars(models: Sequence[Model]) -> Figure:
    """Bars of the classes that occur, a group for each."""
    shown = [k for k, c in enumerate(models[0].report.classes) if any(m.report.classes[k].iou is not None for m in models)]
    figure = Figure(figsize=(max(7, 0.55 * len(shown) * max(len(models), 2) ** 0.5 + 2), 4.2), layout="constrained")
    axes = figure.subplots()
    thick = 0.8 / len(models)
    for place, model in enumerate(models):
        classes = [model.report.classes[k] for k in shown]
        at = np.arange(len(shown)) + thick * (place - (len(models) - 1) / 2)
        iou = np.array([math.nan if c.iou is None else c.iou for c in classes])
        bounds = [model.class_intervals[c.name] or (math.nan, math.nan) for c in classes]
        reach = np.clip([[i - low, high - i] for i, (low, high) in zip(iou, bounds, strict=True)], 0, None).T
        axes.bar(at, iou, thick * 0.92, yerr=reach, label=written(model.name), color=colour(place),
                 error_kw={"lw": 0.8, "capsize": 1.5, "alpha": 0.7})  # fmt: skip
    axes.set_xticks(range(len(shown)), [written(models[0].report.classes[k].name) for k in shown], rotation=35, ha="right")
    axes.set_ylabel("IoU")
    axes.set_ylim(0, 1)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(ncols=min(len(models), 4), loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    return figure


def confusion(models: Sequence[Model]) -> Figure:
    """A matrix for each model; only classes that are labelled or predicted stand in it."""
    matrices = np.stack([np.array(m.report.confusion, float)[:, :-1] for m in models])
    rows = [k for k in range(matrices.shape[1]) if matrices[:, k].sum()]
    columns = [k for k in range(matrices.shape[1]) if matrices[:, k].sum() or matrices[:, :, k].sum()]
    names = [written(c.name) for c in models[0].report.classes]
    wide = min(len(models), 3)
    high = -(-len(models) // wide)
    side = max(3.6, 0.36 * len(columns) + 1.4)
    figure = Figure(figsize=(side * wide, side * high), layout="constrained")
    panels = figure.subplots(high, wide, squeeze=False).ravel()
    for axes in panels[len(models) :]:
        axes.set_axis_off()
    for axes, model, matrix in zip(panels, models, matrices, strict=False):
        share = matrix[rows][:, columns] / np.maximum(matrix[rows].sum(1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        if len(columns) <= WRITTEN_CLASSES:
            for (y, x), value in np.ndenumerate(share):
                if value >= 0.005:
                    axes.text(x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=6,
                              color="white" if value > 0.6 else "black")  # fmt: skip
        axes.set_title(f"{written(model.name)} (%)")
        axes.set_xticks(range(len(columns)), [names[k] for k in columns], rotation=90, fontsize=7)
        axes.set_yticks(range(len(rows)), [names[k] for k in rows], fontsize=7)
        axes.set_xlabel("predicted")
        axes.set_ylabel("label")
    return figure


def reliability(models: Sequence[Model]) -> Figure:
    """Accuracy over confidence, and below how many pixels there are of each confidence."""
    figure = Figure(figsize=(5.5, 5.8), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color="grey", lw=0.8, ls="--", label="perfect calibration")
    for place, model in enumerate(models):
        bins = [b for b in model.reliability.bins if b.confidence is not None]
        confidence = [b.confidence for b in bins]
        label = f"{written(model.name)}: ECE {100 * model.reliability.ece:.1f} %"
        axes.plot(confidence, [b.accuracy for b in bins], marker=".", color=colour(place), label=label)
        counts.plot(confidence, [b.share for b in bins], marker=".", color=colour(place))
    axes.set_ylabel("accuracy")
    axes.set_ylim(0, 1)
    axes.legend(frameon=False)
    counts.set_yscale("log")
    counts.set_ylabel("share of pixels")
    counts.set_xlabel("confidence: probability of the chosen class")
    for each in (axes, counts):
        each.grid(alpha=0.3)
        each.set_xlim(0, 1)
    return figure


def curves(models: Sequence[Model]) -> Figure:
    """A panel for the loss and for each score, all models in each, the legs of a training end to end; a dot marks the epoch
    that is compared."""
    figure = Figure(figsize=FIGURE, layout="constrained")
    for axes, training, validation in panels(figure, "validation: cross-entropy (nats)\ntraining: what it minimises"):
        for place, model in enumerate(models):
            if not model.history:
                continue
            epochs, before = range(1, len(model.history) + 1), sum(map(len, by_leg(model.history)[:-1]))
            dot = [n for n, row in enumerate(model.history) if n >= before and row["epoch"] == model.epoch]
            look: dict[str, Any] = {"color": colour(place), "marker": "o", "ms": 4, "markevery": dot}
            axes.plot(epochs, column(model.history, validation), label=written(model.name), **look)
            axes.plot(epochs, column(model.history, training), color=colour(place), ls=":", lw=0.9)
    return figure


def cost(models: Sequence[Model], what: str, value: Callable[[Model], float]) -> Figure:
    """The leading score over what it costs, with 95 % intervals."""
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.subplots()
    for place, model in enumerate(models):
        score = getattr(model.report.scores, LEADING)
        if score is None:
            continue
        low, high = model.report.intervals[LEADING] or (math.nan, math.nan)
        reach = np.clip([[score - low], [high - score]], 0, None)
        axes.errorbar(value(model), score, yerr=reach, fmt="o", color=colour(place), capsize=3)
        axes.annotate(
            written(model.name), (value(model), score), xytext=(6, 4), textcoords="offset points", color=colour(place)
        )
    axes.set_xlabel(what)
    axes.set_ylabel("macro IoU of the labelled classes")
    axes.margins(x=0.25)
    axes.grid(alpha=0.3)
    return figure
