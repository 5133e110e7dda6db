"""Compare checkpoints on one page: scores with confidence intervals, costs, curves, and masks side by side.

python -m training compare runs/unet runs/r2unet runs/ddunet --data datasets/cityscapes --split val --out report
python -m training compare runs/unet-* runs/ddunet-* --data datasets/cityscapes --out report     three or more seeds of each
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from core.errors import InputError
from training.commands.options import add_device_flags, add_image_flags, add_label_flag, add_protocol_flags, protocol_from_args
from training.output_paths import check_output_dir


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="RUN_OR_CHECKPOINT",
        help="run directories (their best checkpoints), checkpoint files, or names of bundled checkpoints",
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="data directory, or `synthetic`")
    parser.add_argument("--split", default="val", help="split to compare on (default: val)")
    add_label_flag(parser)
    add_image_flags(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="directory for the page, figures and numbers")
    parser.add_argument(
        "--training-steps", type=int, default=3, metavar="N", help="number of training steps to time; 0: none (default: 3)"
    )
    add_protocol_flags(parser, threshold=0.5, score_size="input")  # The alternative protocol of the page.
    add_device_flags(parser)


def run(options: argparse.Namespace, arguments: list[str]) -> int:
    """Validate the input, measure costs, evaluate all models in one pass over the data, and write the page."""
    from core.backends.torch_cpu import resolve_device
    from core.evaluation.evaluator import require_same_labels
    from training.comparison import costs, text
    from training.comparison.counting import count_all
    from training.comparison.figures import all_figures
    from training.comparison.models import open_models
    from training.comparison.page import write_report
    from training.comparison.summary import MeasuredCost, summarize
    from training.data.training_data import open_split, validate_samples

    if options.training_steps < 0:
        raise InputError(f"--training-steps: expected at least 0, got {options.training_steps}")
    check_output_dir(options.out, "--out")
    if (options.out / "index.html").exists() and not (options.out / "report.json").exists():
        raise InputError(f"--out: {options.out} contains another index.html, which would be replaced; choose another directory")
    protocol = protocol_from_args(options)
    dataset = open_split(options.data, options.split, options.label_ids, options.max_pixels)
    models = open_models(options.checkpoints, options.device, options.backend)
    require_same_labels(models[0].segmenter.labels, dataset.labels)
    validate_samples(dataset)
    height, width = dataset[0][1].shape
    peaks = costs.peak_memories(models, (height, width))
    counts, disagreement = count_all(models, dataset, protocol)
    # Training comes last, because it changes the memory allocator's settings.
    speeds = costs.training_speeds(models, resolve_device(options.device), options.training_steps)
    measured = [MeasuredCost(speed, peak) for speed, peak in zip(speeds, peaks, strict=True)]
    command = shlex.join(["python", "-m", "training", *arguments])
    comparison = summarize(models, dataset, counts, disagreement, measured, protocol, command)
    write_report(comparison, all_figures(comparison, models, dataset), options.out)
    for pair in (*comparison.architecture_pairs, *comparison.pairs):
        print(pair.verdict)
    if text.has_ungrouped_pairs(comparison):
        print(text.ABOUT_CHECKPOINTS)
    print(f"page: {options.out / 'index.html'}")
    return 0
