"""The `export` command: a checkpoint to pass on in half precision, or its network for fast CPUs beside it.

python -m training export runs/ddunet --int8 --data datasets/cityscapes
python -m training export runs/ddunet --to fp16 --out ddunet.safetensors --data datasets/cityscapes --licence "CC BY 4.0"
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from core.backends import TORCH
from core.checkpoints.checkpoint import (
    PRETRAINED,
    SUFFIX,
    Card,
    Checkpoint,
    find_checkpoint,
    read_checkpoint,
    summary,
    write_checkpoint,
)
from core.checkpoints.safetensors_io import Tensors
from core.data.datasets import Dataset, described
from core.errors import InputError
from core.evaluation.report import require_same_labels
from core.inference.segmenter import Segmenter
from training.commands.evaluate import evaluate
from training.data.training_data import check, open_data
from training.distributed.context import World
from training.output_paths import require_file
from training.tracking.history import Row, by_leg, histories_of, history_beside, read_rows, read_table, write_table


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Flags of `export`."""
    parser = commands.add_parser(
        "export", help="make a checkpoint to pass on", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run_command=run)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a file, a run folder (its best) or the name of a shipped one")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--to", choices=("fp16",), help="fp16: a checkpoint of half the size, served in fp32 as before")
    kind.add_argument(
        "--int8",
        action="store_true",
        help="NAME.int8 beside the checkpoint, for a CPU: quantised with training images of --data, scored on --split",
    )
    kind.add_argument("--fp32", action="store_true", help="NAME.fp32 beside the checkpoint, for a CPU")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"file to write, NAME{SUFFIX} (default: NAME.fp16{SUFFIX} beside)"
    )
    parser.add_argument(
        "--data", metavar="DIR", help="score the weights as written on this data; without it the card has no scores"
    )
    parser.add_argument("--split", default="val", help="split to score on (default: val)")
    parser.add_argument("--licence", help="what the weights may be used for, which follows from their data")
    parser.add_argument("--limits", help="what the model was never taught, in a sentence")


def run(options: argparse.Namespace, arguments: list[str]) -> int:
    """Write what was asked for."""
    return export_checkpoint(options) if options.to else export_artefact(options)


def export_artefact(options: argparse.Namespace) -> int:
    """Write NAME.int8 or NAME.fp32 beside the checkpoint."""
    from training.export import openvino  # takes seconds

    for flag, value in (("--out", options.out), ("--licence", options.licence), ("--limits", options.limits)):
        if value is not None:
            raise InputError(f"{flag}: for --to only; an artefact lies beside its checkpoint, whose card says the rest")
    name, path = find_checkpoint(options.checkpoint)
    checkpoint = read_checkpoint(path, name)
    if path.resolve().parent == PRETRAINED.resolve():
        raise InputError(f"{name}: comes with the project, whose folder is not for files of yours; copy {path} and export that")
    if options.int8 and not options.data:
        raise InputError("--int8: needs --data DIR: training images to measure ranges on, and --split to score on")
    dataset = open_data(options.data, options.split) if options.data else None
    if dataset:
        require_same_labels(checkpoint.card.labels, dataset.labels)
        check(dataset)
    measured: openvino.Measured | None
    if options.int8 and dataset:
        folder, digest, measured = openvino.export_int8(checkpoint, open_data(options.data, "train"), dataset)
    else:
        folder, digest, measured = openvino.export_fp32(checkpoint, dataset)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    print(
        f"{folder}: {size:.1f} MB, digest {digest[:16]}" + (f", {measured.scored_on}: {measured.words()}" if measured else "")
    )
    return 0


def export_checkpoint(options: argparse.Namespace) -> int:
    """Write the file, and beside it the history of all its training as NAME.history.csv."""
    name, path = find_checkpoint(options.checkpoint)
    if options.out is None and path.resolve().parent == PRETRAINED.resolve():
        raise InputError(
            f"--out: {name} comes with the project, whose folder is not for files of yours; name the file to write"
        )
    source = read_checkpoint(path, name)
    out = options.out or path.with_name(f"{path.stem}.{options.to}{SUFFIX}")
    if out.suffix != SUFFIX:
        raise InputError(f"--out: {out}: expected a name that ends with {SUFFIX}")
    require_file(out, "--out")
    if out.exists() and out.samefile(path):
        raise InputError(f"--out: {out} is the checkpoint itself; choose another file")
    dataset = open_data(options.data, options.split) if options.data else None
    histories = histories_of(path)
    history, (rows, names) = read_rows(*histories), read_table(*histories)
    tensors = halved(source)
    card = completed(source.card, history, options.licence, options.limits)
    scores = scored(replace(source, tensors=tensors), dataset) if dataset else {}
    of = described(dataset) if dataset else None
    digest = write_checkpoint(out, card.model_copy(update={"scores": scores, "scored_on": of}), tensors)
    history_beside(out).unlink(missing_ok=True)  # of another checkpoint that lay there
    if history:
        write_table(history_beside(out), rows, names)
        print(f"{history_beside(out)}: the history of its epochs")
    told = ", ".join(f"{key} {value:.4f}" for key, value in scores.items() if value is not None)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, digest {digest[:16]}" + f", {told}" * bool(told))
    return 0


def halved(source: Checkpoint) -> Tensors:
    """Convolution weights as float16; biases and the statistics of batch norm, which are few and add up, stay float32.

    Raises InputError where a weight is too large for that.
    """
    tensors: Tensors = {}
    for name, array in source.tensors.items():
        with np.errstate(over="ignore"):
            tensors[name] = array.astype(np.float16) if array.ndim > 1 else array
        if not np.isfinite(tensors[name]).all():
            raise InputError(f"{source.path}: {name} holds {abs(array).max():g}, and fp16 ends at 65504; pass it on as it is")
    return tensors


def completed(card: Card, history: list[Row], licence: str | None, limits: str | None) -> Card:
    """The card with what is told and with the hours of its trainings, all epochs of them, where their history is at hand."""
    legs = list(card.legs)
    for back, rows in enumerate(reversed(by_leg(history)), 1):  # the oldest may be missing
        if back <= len(legs) and (back == 1 or legs[-back].hours is None):
            seconds = sum(row.get("seconds") or 0 for row in rows)
            legs[-back] = legs[-back].model_copy(update={"hours": round(seconds / 3600, 3)})
    told = {"licence": licence or card.licence, "limits": limits or card.limits, "legs": tuple(legs)}
    return card.model_copy(update=told)


def scored(checkpoint: Checkpoint, dataset: Dataset) -> dict[str, float | None]:
    """The leading scores of the weights as they are written. Raises InputError."""
    require_same_labels(checkpoint.card.labels, dataset.labels)
    check(dataset)
    # by torch: an artefact that lies beside the source is of other weights
    return summary(evaluate(checkpoint, Segmenter(checkpoint, backend=TORCH), dataset, 4, World()).scores)
