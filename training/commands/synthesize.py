"""The `synthesize` command: generated street scenes as a data set in Cityscapes layout.

python -m training synthesize datasets/scenes --train 200 --val 50 --size 256 512 --seed 0
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from core.errors import InputError
from core.images.encode import grey_png, photo_png
from core.runtime.files import write_atomically
from training.data.training_data import SCENE, SIZES, scene_seed
from training.output_paths import require_folder
from training.synthetic.scenes import street_scene
from training.tracking.progress_bar import bar

CITY = "generated"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Flags of `synthesize`."""
    parser = commands.add_parser(
        "synthesize", help="write generated scenes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run_command=run)
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder to write to")
    for split, count in SIZES.items():
        parser.add_argument(f"--{split}", type=int, default=count, metavar="N", help=f"scenes of {split} (default: {count})")
    parser.add_argument("--size", type=int, nargs=2, default=SCENE, metavar=("H", "W"), help="pixels (default: 256 512)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same scenes (default: 0)")


def run(options: argparse.Namespace, arguments: list[str]) -> int:
    """Write the scenes of both splits."""
    counts = {"train": options.train, "val": options.val}
    if min(counts.values()) < 0 or options.seed < 0:
        raise InputError("--train, --val and --seed: expected 0 or more")
    if not all(16 <= side <= 4096 for side in options.size):
        raise InputError(f"--size: expected two numbers from 16 to 4096, got {options.size[0]} {options.size[1]}")
    require_folder(options.folder, "DIR")
    if (options.folder / "leftImg8bit").exists():
        raise InputError(f"{options.folder}: already holds a data set; choose another folder or delete it")
    for split, count in counts.items():
        for index in bar(f"drawing {split}", items=range(count), unit="scene"):
            write_scene(options.folder, split, index, options.size, options.seed)
    print(f"{counts['train']} training and {counts['val']} validation scenes in {options.folder}")
    return 0


def write_scene(folder: Path, split: str, index: int, size: tuple[int, int], seed: int) -> None:
    """One photograph and its label ids, under the names that Cityscapes gives its files."""
    rgb, ids = street_scene(np.random.default_rng(scene_seed(seed, split, index)), *size)
    for kind, ending, data in (("leftImg8bit", "leftImg8bit", photo_png(rgb)), ("gtFine", "gtFine_labelIds", grey_png(ids))):
        path = folder / kind / split / CITY / f"{CITY}_{index:06d}_000019_{ending}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, [data])
