"""Write generated street scenes as a dataset in Cityscapes layout.

python -m training synthesize datasets/scenes --train 200 --val 50 --size 256 512 --seed 0
"""

from __future__ import annotations

import argparse
from pathlib import Path

from core.errors import InputError
from training.output_paths import check_output_dir


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="directory for the dataset")
    parser.add_argument("--train", type=int, default=200, metavar="N", help="number of training scenes (default: 200)")
    parser.add_argument("--val", type=int, default=50, metavar="N", help="number of validation scenes (default: 50)")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(256, 512),
        metavar=("H", "W"),
        help="height and width of a scene in pixels (default: 256 512)",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed; equal seeds give equal scenes (default: 0)")


def run(options: argparse.Namespace, arguments: list[str]) -> int:
    """Write the scenes of both splits."""
    from training.synthetic.dataset import write_scene
    from training.tracking.progress_bar import progress_bar

    counts = {"train": options.train, "val": options.val}
    if min(counts.values()) < 0 or options.seed < 0:
        raise InputError("--train, --val and --seed: expected at least 0")
    if not all(16 <= side <= 4096 for side in options.size):
        raise InputError(f"--size: expected two numbers from 16 to 4096, got {options.size[0]} {options.size[1]}")
    check_output_dir(options.directory, "DIR")
    if (options.directory / "leftImg8bit").exists():
        raise InputError(f"{options.directory}: already contains a dataset; choose another directory, or delete it")
    for split, count in counts.items():
        for index in progress_bar(f"drawing {split}", items=range(count), unit="scene"):
            write_scene(options.directory, split, index, options.size, options.seed)
    print(f"{counts['train']} training and {counts['val']} validation scenes in {options.directory}")
    return 0
