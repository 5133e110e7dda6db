"""The `evaluate` command: the scores of a checkpoint on a split, alone or as many processes under torchrun.

python -m training evaluate runs/ddunet --data datasets/cityscapes --split val --json report.json
torchrun --nproc-per-node 2 -m training evaluate runs/ddunet --data datasets/cityscapes
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from core.backends import BACKENDS, OPENVINO
from core.checkpoints.checkpoint import Checkpoint, find_checkpoint, read_checkpoint
from core.data.datasets import Dataset
from core.errors import InputError
from core.evaluation.report import EXACT, AtInput, CheckpointInfo, Definition, Report, build_report, require_same_labels
from core.images.decode import RGB
from core.images.encode import Labels
from core.images.resize import Size
from core.inference.segmenter import How, Segmenter
from core.runtime.files import write_atomically
from training.data.training_data import check, fingerprint, open_data
from training.distributed.context import World, join
from training.engine.validation import count_share
from training.output_paths import require_file


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Flags of `evaluate`."""
    parser = commands.add_parser(
        "evaluate", help="score a checkpoint", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run_command=run)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a file, a run folder (its best) or the name of a shipped one")
    parser.add_argument("--data", required=True, metavar="DIR", help="data folder, or `synthetic`")
    parser.add_argument("--split", default="val", help="split to score on (default: val)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole report there")
    parser.add_argument("--batch-size", type=int, default=4, metavar="N", help="photographs at a time (default: 4)")
    add_definition_flags(parser, EXACT)
    add_how_flags(parser)
    add_device_flags(parser)


def add_definition_flags(parser: argparse.ArgumentParser, default: Definition) -> None:
    """Flags that say how pixels are scored; the defaults of `evaluate` are the exact scores."""
    told = "argmax" if default.threshold is None else str(default.threshold)
    parser.add_argument(
        "--threshold", type=float, default=default.threshold, metavar="P",
        help=f"pixels whose class is not more probable than P are of no class (default: {told})",
    )  # fmt: skip
    parser.add_argument(
        "--score-at", choices=("label", "input"), default=default.at,
        help=f"size at which pixels are compared: the label's own, or the network's (default: {default.at})",
    )  # fmt: skip


def definition(options: argparse.Namespace) -> Definition:
    """What the flags of `add_definition_flags` say. Raises InputError."""
    try:
        return Definition(threshold=options.threshold, at=options.score_at)
    except ValidationError:
        raise InputError(f"--threshold: expected 0.5 or more and less than 1, got {options.threshold}; below 0.5 two classes"
                         " can pass, and a pixel has one") from None  # fmt: skip


def add_how_flags(parser: argparse.ArgumentParser) -> None:
    """Flags that say how photographs go through the network."""
    parser.add_argument(
        "--resolution",
        choices=("network", "native"),
        default="network",
        help="native: at their own scale, by overlapping tiles of the network's size (default: network)",
    )
    parser.add_argument("--flip", action="store_true", help="average with the mirror image: twice the time")


def add_device_flags(parser: argparse.ArgumentParser) -> None:
    """Flags that say what runs the network."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--backend", default="auto", choices=("auto", *BACKENDS), help="what runs the network (default: auto)")


def run(options: argparse.Namespace, arguments: list[str]) -> int:
    """Evaluate this process's share; the main process adds up, tells and writes."""
    if options.batch_size < 1:
        raise InputError(f"--batch-size: expected 1 or more, got {options.batch_size}")
    if options.json:
        require_file(options.json, "--json")
    how = definition(options).model_copy(update={"resolution": options.resolution, "flip": options.flip})
    if how.resolution == "native" and how.at == "input":
        raise InputError("--score-at input: at native resolution there is no other size than the label's own; leave one out")
    dataset = open_data(options.data, options.split)
    with join(use_gpu=options.device != "cpu") as world:
        name, path = find_checkpoint(options.checkpoint)
        checkpoint = read_checkpoint(path, name)
        segmenter = Segmenter(checkpoint, own_device(options.device, options.backend, world), options.backend)
        require_same_labels(segmenter.labels, dataset.labels)
        require_same_network(segmenter, world)
        world.require_same(fingerprint(dataset), f"--data: other files of {options.split}")
        if world.main:
            check(dataset)
        world.barrier()
        report = evaluate(checkpoint, segmenter, dataset, options.batch_size, world, how)
    if world.main:
        print(table(report))
        if options.json:
            write_atomically(options.json, [report.model_dump_json(indent=2).encode() + b"\n"])
            print(f"report: {options.json}")
    return 0


def own_device(wish: str, backend: str, world: World) -> str:
    """The device of this process: of several on a machine each has a GPU of its own, where none is named."""
    alone = world.ranks == 1 or backend.startswith(OPENVINO)
    return str(world.device) if not alone and wish in ("auto", world.device.type) else wish


def require_same_network(segmenter: Segmenter, world: World) -> None:
    """Raise InputError where processes run different ones: a run's best checkpoint may be replaced while they open it."""
    told = "CHECKPOINT: other weights, or another back end (a run that goes on may just have a better one; try again)"
    world.require_same((segmenter.backend.name, segmenter.backend.digest), told)


def evaluate(
    checkpoint: Checkpoint, segmenter: Segmenter, dataset: Dataset, batch_size: int, world: World, how: Definition = EXACT
) -> Report:
    """The report of the whole split, the same on every rank."""

    def segment(photos: Sequence[RGB], sizes: Sequence[Size]) -> list[Labels]:
        return segmenter.many(photos, sizes, how.threshold, How(how.resolution == "native", how.flip))

    segmenter(dataset[0][0])  # the first run is slower than those that follow
    scored = AtInput(dataset, segmenter.preprocess) if how.at == "input" else dataset
    tally = count_share(segment, scored, batch_size, world)
    world.collect(None)  # a machine that was lost is noticed here, and not waited for
    world.add_tally(tally)
    return build_report(tally, info(checkpoint, segmenter), dataset, how)


def info(checkpoint: Checkpoint, segmenter: Segmenter) -> CheckpointInfo:
    """Which artefact runs, for its report."""
    return CheckpointInfo(
        name=checkpoint.name,
        architecture=checkpoint.card.architecture.name,
        digest=segmenter.backend.digest,
        backend=segmenter.backend.name,
    )


def table(report: Report) -> str:
    """The report for a terminal: leading scores with their intervals, then a line for each class that occurs."""

    def number(value: float | None) -> str:
        return "    -" if value is None else f"{value:.3f}"

    def leading(title: str, key: str) -> str:
        low_high = report.intervals.get(key)
        between = f"  (95 %: {low_high[0]:.3f} to {low_high[1]:.3f})" if low_high else ""
        return f"{title} {number(getattr(report.scores, key))}{between}"

    told = f" ({report.definition.words()})" if report.definition != EXACT else ""
    lines = [
        f"{report.checkpoint.name} ({report.checkpoint.architecture}, {report.checkpoint.backend}) on {report.data.images}"
        f" images of {report.data.name} {report.data.split}" + told,
        leading("macro IoU", "macro_iou"),
        leading("macro IoU of labelled classes", "macro_iou_labelled"),
        leading("pixel accuracy", "pixel_accuracy"),
        "",
        f"{'':20}{'IoU':>8}{'Dice':>8}{'sens.':>8}{'spec.':>8}{'acc.':>8}",
    ]
    rows = [(c.name, c) for c in report.classes if c.iou is not None]
    for name, five in (*rows, ("macro mean", report.scores.macro), ("micro", report.scores.micro)):
        values = (five.iou, five.dice, five.sensitivity, five.specificity, five.accuracy)
        lines.append(f"{name:20}" + "".join(f"{number(value):>8}" for value in values))
    speed = report.speed
    lines += ["", f"{speed.images_per_s:.1f} images/s, median {speed.median_ms:.1f} ms, 95th percentile {speed.p95_ms:.1f} ms"]
    return "\n".join(lines)
