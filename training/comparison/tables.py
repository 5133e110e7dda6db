"""The tables of a comparison's page."""

from __future__ import annotations

from core.evaluation.metrics import FIVE
from core.evaluation.report import Report
from training.comparison.document import Comparison, Model
from training.comparison.verdicts import Difference
from training.tracking.curves import spelled
from training.tracking.run_dir import LEADING

Table = tuple[list[str], list[list[str]]]  # titles of the columns, rows
SHOWN = (LEADING, "macro_dice", "macro_sensitivity", "pixel_accuracy")  # of the differences; all are in report.json


def tables(c: Comparison) -> dict[str, Table]:
    """The page's tables by name; in the large ones a model is a column, so that a phone can show three."""
    names = [model.name for model in c.models]
    micro = [f"micro {spelled(name)}" for name in FIVE]
    found: dict[str, Table] = {"scores": (["", *names], _scores(c)), "costs": (["", *names], _costs(c))}
    if c.pairs:
        rows = [
            [f"{pair.first} minus {pair.second}", *(_difference(pair.differences[key]) for key in SHOWN)]
            for pair in (*c.pairs, *c.architecture_pairs)
        ]
        found["differences"] = (["", *map(spelled, SHOWN)], rows)
    rows = []
    for model in c.models:
        for what, scores in (("exact", model.report.scores), (model.otherwise.definition.words(), model.otherwise.scores)):
            five = (percent(getattr(scores.micro, name), 2) for name in FIVE)
            rows.append([f"{model.name}, {what or 'exact'}", *five, percent(getattr(scores, LEADING), 2)])
    found["definitions"] = (["", *micro, spelled(LEADING)], rows)
    if c.published:
        published = [[name, *(percent(values[key], 2) for key in FIVE)] for name, values in c.published.items()]
        found["published"] = (["published, Cityscapes val, void counted as road", *micro], published)
    return found


def _scores(c: Comparison) -> list[list[str]]:
    keys = [LEADING, "pixel_accuracy", *(f"{kind}_{name}" for kind in ("macro", "micro") for name in FIVE)]
    rows = [[spelled(key), *(_score(m.report, key) for m in c.models)] for key in keys]
    return [*rows, ["calibration error (ECE)", *(percent(m.reliability.ece) for m in c.models)]]


def _costs(c: Comparison) -> list[list[str]]:
    return [[title, *map(tell, c.models)] for title, tell in COSTS.items()]


def _megabytes(model: Model) -> str:
    peak = model.cost.peak
    if peak is None:
        return "–"
    return f"{peak.process_mb:,.0f} MB" + (f" + {peak.gpu_mb:,.0f} MB on the GPU" if peak.gpu_mb is not None else "")


COSTS = {
    "architecture": lambda m: f"{m.architecture}, width {m.width}",
    "parameters": lambda m: f"{m.cost.parameters:,}",
    "input for the first picture (height x width)": lambda m: "{} x {}".format(*m.cost.input_size),
    "GFLOP a picture": lambda m: f"{m.cost.gflop:.1f}",
    "training, images/s": lambda m: "–" if m.cost.training_images_per_s is None else f"{m.cost.training_images_per_s:.1f}",
    "inference by": lambda m: m.report.checkpoint.backend,
    "inference, median": lambda m: f"{m.cost.median_ms:.0f} ms",
    "inference, 95th percentile": lambda m: f"{m.cost.p95_ms:.0f} ms",
    "peak memory": _megabytes,
    "trained on": lambda m: (
        f"{m.trained_on}, {m.epoch} epochs" + (f" (the last of {len(m.legs)} legs)" if len(m.legs) > 1 else "")
    ),
}


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage; a dash where it is undefined."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def _score(report: Report, name: str) -> str:
    value = report.scores.by_name()[name]
    interval = report.intervals.get(name)
    return percent(value) + (f" ({percent(interval[0])} to {percent(interval[1])})" if interval else "")


def _difference(difference: Difference) -> str:
    value, interval = difference.value, difference.interval
    if value is None:
        return "–"
    return f"{100 * value:+.1f}" + (f" ({100 * interval[0]:+.1f} to {100 * interval[1]:+.1f})" if interval else "")
