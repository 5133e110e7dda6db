"""The words and tables of a comparison's page."""

from __future__ import annotations

from core.evaluation import Report
from core.intervals import MANY
from core.metrics import FIVE
from training.comparison.contestants import SEEDS
from training.comparison.document import Comparison, Model
from training.comparison.verdicts import Difference
from training.curves import spelled
from training.run_folder import LEADING

Table = tuple[list[str], list[list[str]]]  # titles of the columns, rows
FEW_PAIRS = 3

# What this family of projects has published: Cityscapes val at 256x256 after 200 epochs, softmax > 0.5, scored at the
# network's size, void counted as road
PUBLISHED: dict[str, dict[str, float]] = {
    name: dict(zip(FIVE, values, strict=True))
    for name, values in {
        "U-Net": (0.9899, 0.8797, 0.9960, 0.9017, 0.8215),
        "R2U-Net": (0.9871, 0.8296, 0.9958, 0.8710, 0.7722),
        "DDU-Net": (0.9885, 0.8637, 0.9954, 0.8878, 0.7985),
    }.items()
}

ABOUT_EARLIER = (
    "Earlier tables of this family of projects call a pixel a class where its softmax is over 0.5, not by argmax, and count at"
    " the network's size instead of the label's. Under a threshold the micro scores do tell models apart. Both ways stand"
    " below, so that such tables can be set beside them.",
    "One thing is not repeated: they count void as road. A pixel that nobody labelled is not road; counting it as road rewards"
    " a model for whatever it says there and mixes the car's bonnet into the score. Here void counts nowhere, as the data"
    " sets define it, in both rows. So the published figures are comparable with the earlier definition only roughly, and"
    " only where it is Cityscapes val that was scored, at 256x256. Their IoU is a micro one, not what the field calls mIoU.",
)


def notes(c: Comparison) -> list[str]:
    """How far the verdicts reach."""
    alike = "frames of a film are alike, and count for less than as many independent ones"
    if c.whole_drives:
        drawn = f"whole drives or cities, of which there are {c.drives}: {alike}"
    else:
        shortest, longest = c.block_lengths or (1, 1)
        drawn = (
            f"blocks of {shortest} to {longest} consecutive pictures, by how alike neighbours are in what is scored: {alike}"
        )
    found = [f"Intervals are of 95 %. They come from the counts of each picture, resampled in {drawn}."]
    if 1 < c.drives < MANY:
        found.append(f"{c.drives} drives are few: the intervals tell of more pictures of these rather than of other streets.")
    if c.split == "val":
        found.append(
            "A run folder stands for its best epoch, which was chosen on its val split: there it scores a little too well."
        )
    if c.architectures:
        groups = "; ".join(f"{name}: {', '.join(members)}" for name, members in c.architectures.items())
        found.append(f"Models of one architecture and recipe that differ by their seed: {groups}.")
    if not c.architecture_pairs and c.pairs:
        found.append(
            f"These sentences are about checkpoints. Of architectures they say nothing before each has {SEEDS} seeds or more"
            " (train --seed 1, --seed 2, ...): two trainings that differ by their seed alone differ, too."
        )
    if len(c.pairs) > FEW_PAIRS:
        found.append(f"Each interval holds by itself: of {len(c.pairs)} pairs, one in twenty is expected to miss.")
    return found


def tables(c: Comparison) -> dict[str, Table]:
    """The page's tables: title of each column, rows; a model is a column, so that a phone can show three."""
    names = [model.name for model in c.models]
    scores = [["macro IoU of labelled classes", *(_score(m.report, LEADING) for m in c.models)]]
    scores += [["pixel accuracy", *(_score(m.report, "pixel_accuracy") for m in c.models)]]
    for kind in ("macro", "micro"):
        scores += [[f"{kind} {spelled(name)}", *(_score(m.report, f"{kind}_{name}") for m in c.models)] for name in FIVE]
    return {
        "costs": (["", *names], [[title, *map(tell, c.models)] for title, tell in COSTS.items()]),
        "scores": (["", *names], scores),
        "differences": (
            ["", "macro IoU of labelled classes", "macro Dice", "macro sensitivity", "pixel accuracy"],
            [
                [f"{p.first} less {p.second}",
                 *(_difference(p.differences[k]) for k in (LEADING, "macro_dice", "macro_sensitivity", "pixel_accuracy"))]
                for p in (*c.pairs, *c.architecture_pairs)
            ],
        ),
        "earlier": (
            ["", *(f"micro {spelled(name)}" for name in FIVE), "macro IoU of labelled classes"],
            [[f"{m.name}, {what}", *(percent(getattr(r.scores.micro, name), 2) for name in FIVE),
              percent(getattr(r.scores, LEADING))]
             for m in c.models for what, r in (("exact", m.report), (m.otherwise.definition.words() or "exact", m.otherwise))],
        ),
    }  # fmt: skip


def _megabytes(model: Model) -> str:
    peak = model.cost.peak
    if peak is None:
        return "–"
    return f"{peak.process_mb:,.0f} MB" + (f" + {peak.gpu_mb:,.0f} MB on the GPU" if peak.gpu_mb is not None else "")


COSTS = {
    "architecture": lambda m: f"{m.architecture}, width {m.width}",
    "weights": lambda m: f"{m.cost.parameters:,}",
    "input (height x width), first picture": lambda m: "{} x {}".format(*m.cost.input_size),
    "GFLOP a picture": lambda m: f"{m.cost.gflop:.1f}",
    "training, images/s": lambda m: "–" if m.cost.training_images_per_s is None else f"{m.cost.training_images_per_s:.1f}",
    "inference, median": lambda m: f"{m.cost.median_ms:.0f} ms",
    "inference, 95th percentile": lambda m: f"{m.cost.p95_ms:.0f} ms",
    "peak memory": _megabytes,
    "trained on": lambda m: (
        f"{m.trained_on}, {m.epoch} epochs" + (f" (the last of {len(m.legs)} legs)" if len(m.legs) > 1 else "")
    ),
    "calibration error (ECE)": lambda m: percent(m.reliability.ece),
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
