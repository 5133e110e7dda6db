"""Compute the scores of a checkpoint on a split, in one process or in several under torchrun.

python -m training evaluate runs/ddunet --data datasets/cityscapes --split val --json report.json
torchrun --nproc-per-node 2 -m training evaluate runs/ddunet --data datasets/cityscapes
"""

from __future__ import annotations

import argparse
import sys

from core.errors import InputError
from training.commands.options import (
    add_checkpoint_argument,
    add_device_flags,
    add_image_flags,
    add_inference_flags,
    add_label_flag,
    add_protocol_flags,
    protocol_from_args,
)
from training.output_paths import STDOUT, check_json_output, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add_checkpoint_argument(parser)
    parser.add_argument("--data", required=True, metavar="DIR", help="data directory, or `synthetic`")
    parser.add_argument("--split", default="val", help="split to score on (default: val)")
    add_label_flag(parser)
    add_image_flags(parser)
    parser.add_argument("--json", metavar="FILE", help="file for the whole report; -: standard output")
    parser.add_argument("--batch-size", type=int, default=4, metavar="N", help="number of images per batch (default: 4)")
    add_protocol_flags(parser)
    add_inference_flags(parser)
    add_device_flags(parser)


def run(options: argparse.Namespace, arguments: list[str]) -> int:
    """Evaluate this rank's shard; rank 0 prints and writes the report."""
    from core.checkpoints.checkpoint import find_checkpoint, read_checkpoint
    from core.evaluation.evaluator import require_same_labels
    from training.data.training_data import fingerprint, open_split, validate_samples
    from training.distributed.context import init_distributed
    from training.evaluation import evaluate, format_report
    from training.inference import open_segmenter

    if options.batch_size < 1:
        raise InputError(f"--batch-size: expected at least 1, got {options.batch_size}")
    check_json_output(options.json)
    protocol = protocol_from_args(options)
    if protocol.inference_resolution == "native" and protocol.score_size == "input":
        raise InputError("--score-at input: with --resolution native there is no size but the label's own; remove one of them")
    dataset = open_split(options.data, options.split, options.label_ids, options.max_pixels)
    with init_distributed(use_gpu=options.device != "cpu") as context:
        name, path = find_checkpoint(options.checkpoint)
        checkpoint = read_checkpoint(path, name)
        segmenter = open_segmenter(checkpoint, options.device, options.backend, context)
        require_same_labels(segmenter.labels, dataset.labels)
        context.require_same(fingerprint(dataset), f"--data: other files of {options.split}")
        validate_samples(dataset, context)
        report = evaluate(checkpoint, segmenter, dataset, options.batch_size, context, protocol)
    if context.is_main:
        print(format_report(report), file=sys.stderr if options.json == STDOUT else sys.stdout)
        if options.json:
            write_json(options.json, report.model_dump_json(indent=2))
        if options.json not in (None, STDOUT):
            print(f"report: {options.json}")
    return 0
