"""Figures of a comparison: plots with one color per model throughout, and grids of example images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from core.data.datasets import Dataset, reduce_images
from core.data.labels import IGNORE_INDEX, LabelSpace
from core.images.decode import RGB
from core.images.encode import LabelMap
from core.images.resize import Size, resize_image, resize_label
from training.comparison.models import ComparedModel
from training.comparison.schema import Comparison, Example, Model
from training.tracking.curves import FIGURE_SIZE, column, display_name, escape_mathtext, score_panels
from training.tracking.history import split_stages
from training.tracking.run_dir import SELECTION_METRIC

COLORS: list[Any] = list(matplotlib.color_sequences["tab10"])
CAPTIONS = {
    "class_iou": "IoU by class, with 95 % intervals; no interval if there are too few images",
    "confusion": "Confusion matrices: fraction of the pixels of each class (row) that are predicted as each class (column)",
    "reliability": "Reliability diagram: accuracy of the pixels by the confidence of the model; void pixels are ignored",
    "curves": "Loss and scores by epoch: validation solid, running scores of the training crops dotted; a dot marks the epoch"
    " that is compared. The stages of a training are concatenated",
    "iou_speed": "mIoU (labeled classes) by inference time",
    "iou_parameters": "mIoU (labeled classes) by number of parameters",
    "examples": "Typical, best and worst images, with the IoU of each model on them",
    "disagreement": "Images on which the models disagree most",
}
MAX_ANNOTATED_CLASSES = 20  # with more classes, numbers do not fit in the cells of a confusion matrix
MAX_CELL_SIDE = 640  # pixels of an image in a grid
CELL_WIDTH = 3.0  # inches

GridRow = tuple[Example, RGB, LabelMap, Sequence[LabelMap]]  # example, its image, its label, the prediction of each model


def all_figures(comparison: Comparison, models: Sequence[ComparedModel], dataset: Dataset) -> Iterator[tuple[str, str, Figure]]:
    """Yield (name, caption, figure) of the plots, then of the image grids; one figure is in memory at a time."""
    for name, figure in chain(plots(comparison), image_grids(comparison, models, dataset)):
        yield name, CAPTIONS[name], figure


def plots(comparison: Comparison) -> Iterator[tuple[str, Figure]]:
    """Yield the name and the figure of each plot."""
    models = comparison.models
    yield "class_iou", class_bars(models)
    yield "confusion", confusion(models)
    yield "reliability", reliability(models)
    if any(model.history for model in models):
        yield "curves", curves(models)
    yield "iou_speed", score_by_cost(models, "inference, median milliseconds per image", lambda model: model.cost.median_ms)
    yield "iou_parameters", score_by_cost(models, "parameters (millions)", lambda model: model.cost.parameters / 1e6)


def model_color(index: int) -> Any:
    """Return the color of a model by its index in the comparison."""
    return COLORS[index % len(COLORS)]


def class_bars(models: Sequence[Model]) -> Figure:
    """Plot the IoU of the classes that occur, a group of bars per class."""
    shown = [k for k in range(len(models[0].report.classes)) if any(m.report.classes[k].iou is not None for m in models)]
    figure = Figure(figsize=(max(7, 0.55 * len(shown) * max(len(models), 2) ** 0.5 + 2), 4.2), layout="constrained")
    axes = figure.subplots()
    bar_width = 0.8 / len(models)
    for index, model in enumerate(models):
        classes = [model.report.classes[k] for k in shown]
        x = np.arange(len(shown)) + bar_width * (index - (len(models) - 1) / 2)
        iou = np.array([math.nan if c.iou is None else c.iou for c in classes])
        intervals = [model.class_intervals[c.name] or (math.nan, math.nan) for c in classes]
        errors = np.clip([[i - low, high - i] for i, (low, high) in zip(iou, intervals, strict=True)], 0, None).T
        axes.bar(x, iou, bar_width * 0.92, yerr=errors, label=escape_mathtext(model.name), color=model_color(index),
                 error_kw={"lw": 0.8, "capsize": 1.5, "alpha": 0.7})  # fmt: skip
    names = [escape_mathtext(models[0].report.classes[k].name) for k in shown]
    axes.set_xticks(range(len(shown)), names, rotation=35, ha="right")
    axes.set_ylabel("IoU")
    axes.set_ylim(0, 1)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(ncols=min(len(models), 4), loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    return figure


def confusion(models: Sequence[Model]) -> Figure:
    """Plot a confusion matrix per model, of the classes that are labeled or predicted."""
    matrices = np.stack([np.array(m.report.confusion, float)[:, :-1] for m in models])
    rows = [k for k in range(matrices.shape[1]) if matrices[:, k].sum()]
    columns = [k for k in range(matrices.shape[1]) if matrices[:, k].sum() or matrices[:, :, k].sum()]
    names = [escape_mathtext(c.name) for c in models[0].report.classes]
    grid_columns = min(len(models), 3)
    grid_rows = -(-len(models) // grid_columns)
    side = max(3.6, 0.36 * len(columns) + 1.4)
    figure = Figure(figsize=(side * grid_columns, side * grid_rows), layout="constrained")
    panels = figure.subplots(grid_rows, grid_columns, squeeze=False).ravel()
    for axes in panels[len(models) :]:
        axes.set_axis_off()
    for axes, model, matrix in zip(panels, models, matrices, strict=False):
        fractions = matrix[rows][:, columns] / np.maximum(matrix[rows].sum(1, keepdims=True), 1)
        axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
        if len(columns) <= MAX_ANNOTATED_CLASSES:
            for (y, x), value in np.ndenumerate(fractions):
                if value >= 0.005:
                    axes.text(x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=6,
                              color="white" if value > 0.6 else "black")  # fmt: skip
        axes.set_title(f"{escape_mathtext(model.name)} (%)")
        axes.set_xticks(range(len(columns)), [names[k] for k in columns], rotation=90, fontsize=7)
        axes.set_yticks(range(len(rows)), [names[k] for k in rows], fontsize=7)
        axes.set_xlabel("predicted")
        axes.set_ylabel("label")
    return figure


def reliability(models: Sequence[Model]) -> Figure:
    """Plot accuracy by confidence, and below it the fraction of pixels with each confidence."""
    figure = Figure(figsize=(5.5, 5.8), layout="constrained")
    accuracy_axes, fraction_axes = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    accuracy_axes.plot([0, 1], [0, 1], color="grey", lw=0.8, ls="--", label="perfect calibration")
    for index, model in enumerate(models):
        bins = [b for b in model.reliability.bins if b.confidence is not None]
        confidence = [b.confidence for b in bins]
        label = f"{escape_mathtext(model.name)}: ECE {100 * model.reliability.ece:.1f} %"
        accuracy_axes.plot(confidence, [b.accuracy for b in bins], marker=".", color=model_color(index), label=label)
        fraction_axes.plot(confidence, [b.fraction for b in bins], marker=".", color=model_color(index))
    accuracy_axes.set_ylabel("accuracy")
    accuracy_axes.set_ylim(0, 1)
    accuracy_axes.legend(frameon=False)
    fraction_axes.set_yscale("log")
    fraction_axes.set_ylabel("fraction of pixels")
    fraction_axes.set_xlabel("confidence: probability of the predicted class")
    for axes in (accuracy_axes, fraction_axes):
        axes.grid(alpha=0.3)
        axes.set_xlim(0, 1)
    return figure


def curves(models: Sequence[Model]) -> Figure:
    """Plot loss and scores by epoch, all models in each panel; a dot marks the epoch that is compared."""
    figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
    for axes, train_column, val_column in score_panels(figure, "validation: cross-entropy (nats)\ntraining: training loss"):
        for index, model in enumerate(models):
            if not model.history:
                continue
            epochs = range(1, len(model.history) + 1)
            last_stage_start = sum(map(len, split_stages(model.history)[:-1]))
            dots = [n for n, row in enumerate(model.history) if n >= last_stage_start and row["epoch"] == model.epoch]
            style: dict[str, Any] = {"color": model_color(index), "marker": "o", "ms": 4, "markevery": dots}
            axes.plot(epochs, column(model.history, val_column), label=escape_mathtext(model.name), **style)
            axes.plot(epochs, column(model.history, train_column), color=model_color(index), ls=":", lw=0.9)
    return figure


def score_by_cost(models: Sequence[Model], label: str, cost: Callable[[Model], float]) -> Figure:
    """Plot the mIoU of the labeled classes, with 95 % intervals, by a cost."""
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.subplots()
    for index, model in enumerate(models):
        score = getattr(model.report.scores, SELECTION_METRIC)
        if score is None:
            continue
        low, high = model.report.intervals[SELECTION_METRIC] or (math.nan, math.nan)
        errors = np.clip([[score - low], [high - score]], 0, None)
        point, color = (cost(model), score), model_color(index)
        axes.errorbar(*point, yerr=errors, fmt="o", color=color, capsize=3)
        axes.annotate(escape_mathtext(model.name), point, xytext=(6, 4), textcoords="offset points", color=color)
    axes.set_xlabel(label)
    axes.set_ylabel(display_name(SELECTION_METRIC))
    axes.margins(x=0.25)
    axes.grid(alpha=0.3)
    return figure


def image_grids(comparison: Comparison, models: Sequence[ComparedModel], dataset: Dataset) -> Iterator[tuple[str, Figure]]:
    """Yield the name and the figure of the grids of examples: those selected by score, and by disagreement."""
    names = [model.name for model in models]
    for name in ("examples", "disagreement"):
        by_disagreement = name == "disagreement"
        rows: list[GridRow] = []
        for example in comparison.examples:
            if (example.rule == "disagreement") == by_disagreement:
                rgb, labels = dataset[example.index]
                rows.append((example, rgb, labels, [scored_prediction(model, dataset, example.index) for model in models]))
        if rows:
            yield name, image_grid(rows, names, dataset.labels, by_disagreement)


def scored_prediction(model: ComparedModel, dataset: Dataset, index: int) -> LabelMap:
    """Return the label map (H, W) that was scored: predicted from the image as the model gets it, at the label's size."""
    rgb, labels = reduce_images(dataset, model.segmenter.preprocess)[index]
    return model.segmenter.predict_batch([rgb], [(labels.shape[0], labels.shape[1])])[0]


def image_grid(rows: Sequence[GridRow], names: Sequence[str], space: LabelSpace, mark_disagreement: bool = False) -> Figure:
    """Draw a row for each example: image, label, and the mask of each model; the predictions on void pixels are shown.

    With `mark_disagreement`, a last column shows in red on which pixels the models disagree.
    """
    titles = ["image", "label", *map(escape_mathtext, names), *(["disagreement"] if mark_disagreement else [])]
    ratio = rows[0][1].shape[0] / rows[0][1].shape[1]
    size = (CELL_WIDTH * len(titles), (CELL_WIDTH * ratio + 0.25) * len(rows) + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(rows), len(titles), squeeze=False)
    present: set[int] = set()
    for panel_row, (example, rgb, labels, predictions) in zip(panels, rows, strict=True):
        cell_size = _cell_size(rgb.shape[0], rgb.shape[1])
        maps = [resize_label(label_map, cell_size) for label_map in (labels, *predictions)]
        cells: list[RGB] = [resize_image(rgb, cell_size), *(space.palette[label_map] for label_map in maps)]
        texts = [example.rule, "", *(_iou_text(example.iou[name]) for name in names)]
        if mark_disagreement:
            differs = np.any([prediction != maps[1] for prediction in maps[2:]], axis=0) & (maps[0] != IGNORE_INDEX)
            cells.append(_highlight(cells[0], differs))
            texts.append(f"{100 * example.disagreement:.0f} % of the pixels")
        present |= {int(k) for label_map in maps for k in np.unique(label_map)} - {IGNORE_INDEX}
        for axes, cell, text in zip(panel_row, cells, texts, strict=True):
            axes.imshow(cell, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_xlabel(text, fontsize=9)
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title, fontsize=11)
    patches = [
        Patch(color="#{:02x}{:02x}{:02x}".format(*space.colors[k]), label=escape_mathtext(space.names[k]))
        for k in sorted(present)
    ]
    figure.legend(handles=[*patches, Patch(color="black", label="void")], loc="outside lower center", frameon=False,
                  ncols=min(len(patches) + 1, 2 * len(titles)), fontsize=9)  # fmt: skip
    return figure


def _cell_size(height: int, width: int) -> Size:
    scale = min(1.0, MAX_CELL_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _highlight(rgb: RGB, mask: npt.NDArray[np.bool_]) -> RGB:
    """Return the image in pale gray, with the pixels of the mask in red."""
    gray = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    pale = (128 + gray // 2).astype(np.uint8)
    pale[mask] = (200, 30, 30)
    return pale


def _iou_text(iou: float | None) -> str:
    return "" if iou is None else f"IoU {100 * iou:.1f} %"
