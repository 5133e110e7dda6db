"""The `predict` command: a mask for every photograph.

python -m training predict runs/ddunet street.jpg drive/ --out masks --overlay
python -m training predict runs/ddunet drive/ --out submission --ids label        Cityscapes label ids
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from core.errors import InputError
from core.files import files_below, write_atomically
from core.images import PHOTO_SUFFIXES, read_photo
from core.masks import Labels, grey_png, indexed_png, overlay, photo_png
from core.segmenter import How, Segmenter
from training.evaluate import add_device_flags, add_how_flags
from training.paths import require_folder
from training.progress import bar


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Flags of `predict`."""
    parser = commands.add_parser(
        "predict", help="segment photographs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run_command=run)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a file, a run folder (its best) or the name of a shipped one")
    parser.add_argument("inputs", nargs="+", type=Path, metavar="IMAGE_OR_DIR", help="photographs, or folders of them")
    parser.add_argument("--out", default=Path("masks"), type=Path, metavar="DIR", help="folder for the masks (default: masks)")
    parser.add_argument("--overlay", action="store_true", help="also write <stem>_overlay.png")
    parser.add_argument(
        "--ids",
        choices=("train", "label"),
        default="train",
        help="pixel values: class indices with a palette, or the data set's label ids in grey (default: train)",
    )
    add_how_flags(parser)
    add_device_flags(parser)


def run(options: argparse.Namespace, arguments: list[str]) -> int:
    """Write OUT/<relative path>/<stem>.png for each photograph; a bad one is told and passed over, exit 1 at the end."""
    require_folder(options.out, "--out")
    plan = outputs(options.inputs, options.out, options.overlay)
    segmenter = Segmenter(options.checkpoint, options.device, options.backend)
    how, failed = How(options.resolution == "native", options.flip), 0
    for source, target in bar("predicting", len(plan) > 1, plan, unit="image"):
        try:
            rgb = read_photo(source)
        except InputError as error:
            failed += 1
            tqdm.write(f"error: {error}", file=sys.stderr)
            continue
        labels = segmenter.many([rgb], how=how)[0]
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, [encode(labels, segmenter, options.ids)])
        if options.overlay:
            mixed = overlay(rgb, labels, segmenter.labels)
            write_atomically(overlay_of(target), [photo_png(mixed)])
    print(f"{len(plan) - failed} of {len(plan)} masks in {options.out}")
    return 1 if failed else 0


def encode(labels: Labels, segmenter: Segmenter, ids: str) -> bytes:
    """The mask as a file: class indices with the palette, or the data set's label ids in 8-bit (or 16-bit) grey."""
    if ids == "train":
        return indexed_png(labels, segmenter.labels)
    values = segmenter.labels.decode(labels)
    return grey_png(values.astype(np.uint8) if max(segmenter.labels.ids) < 256 else values)


def overlay_of(mask: Path) -> Path:
    """Where the overlay goes that belongs to a mask."""
    return mask.with_name(f"{mask.stem}_overlay.png")


def outputs(inputs: list[Path], out: Path, overlays: bool) -> list[tuple[Path, Path]]:
    """(photograph, mask) pairs; a folder's tree is kept. Masks of an earlier run are no photographs: what lies in `out` is
    left out of a folder that holds it.

    Raises InputError: nothing there, two pictures of one name, a picture that would replace a photograph.
    """
    plan: dict[Path, Path] = {}
    for given in inputs:
        if not given.exists():
            raise InputError(f"{given}: no such file or folder")
        root = given if given.is_dir() else given.parent
        found = _photographs(given, out) if given.is_dir() else [given]
        if not found:
            raise InputError(f"{given}: holds no photographs ({', '.join(PHOTO_SUFFIXES)})")
        for source in found:
            target = out / source.relative_to(root).with_suffix(".png")
            if plan.setdefault(target, source) != source:
                raise InputError(f"{source} and {plan[target]} would both become {target}; predict them into two folders")
    written = list(plan) + [overlay_of(target) for target in plan if overlays]
    photographs = {source.resolve() for source in plan.values()}
    for target in written:
        if target.resolve() in photographs:
            raise InputError(f"--out: {target} is a photograph and would be replaced; choose another folder")
    if len(set(written)) < len(written):
        twice = next(target for target in plan if overlays and overlay_of(target) in plan)
        raise InputError(f"the overlay of {plan[twice]} would take the place of another mask; predict them into two folders")
    return [(source, target) for target, source in plan.items()]


def _photographs(folder: Path, out: Path) -> list[Path]:
    found = [path for path in files_below(folder) if path.suffix.lower() in PHOTO_SUFFIXES]
    masks = out.resolve()
    return [path for path in found if folder.resolve() not in masks.parents or masks not in path.resolve().parents]
