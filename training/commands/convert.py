"""Convert the export of an annotation tool, or a public data set, to this project's plain layout.

python -m training convert export datasets/mine --from coco --background other
python -m training convert bdd100k datasets/bdd100k --from bdd100k

Images become hard links (edit them in one place and both change); --copy makes copies. SOURCE is not changed.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from core.errors import InputError, did_you_mean
from training.conversion import FORMATS
from training.output_paths import check_output_dir


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help="directory of the export; for coco also a JSON file")
    parser.add_argument("out", type=Path, metavar="OUT", help="directory for the dataset, which must not exist or be empty")
    parser.add_argument("--from", required=True, dest="format", metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument("--split", metavar="NAME", help="split of all images (default: those of the export, or train)")
    parser.add_argument(
        "--background",
        metavar="NAME",
        help="class of pixels without annotation (default: they are void); for coco, label-studio and labelme",
    )
    parser.add_argument(
        "--classes",
        metavar="LIST",
        help="label-studio, labelme: names of the classes, separated by commas (default: all, sorted); camvid: 11 or 32"
        " (default: 32)",
    )
    parser.add_argument("--copy", action="store_true", help="copy the images instead of making hard links")


def run(options: argparse.Namespace, arguments: list[str]) -> int:
    """Read the export, write the dataset, and report both what was converted and what was not."""
    from core.data.datasets import format_problems
    from training.conversion.export import ConversionOptions
    from training.conversion.writer import check_destination, write_dataset

    check_flags(options)
    check_output_dir(options.out, "OUT")
    if not options.source.exists():
        raise InputError(f"{options.source}: no such file or directory")
    if options.source.is_file() and options.format != "coco":
        raise InputError(f"{options.source}: is a file; unpack it if it is an archive, and specify the directory")
    check_destination(options.source, options.out)
    names = tuple(name.strip() for name in options.classes.split(",")) if options.classes else None
    reader = import_module(f"training.conversion.{options.format.replace('-', '_')}")
    export = reader.read_export(options.source, ConversionOptions(options.background, names))
    if len(export.classes) == 1:
        raise InputError(
            f"{options.source}: has a single class, {export.classes.names[0]!r}, and no other pixels are labeled; make these"
            " a class with --background other"
        )
    if options.split:
        export.images = [replace(image, split=options.split) for image in export.images]
    counts, problems = write_dataset(export, options.out, options.copy)
    if not counts:
        raise InputError(format_problems(f"{options.source}: no image can be converted", problems))
    splits = ", ".join(f"{count:,} in {split}" for split, count in sorted(counts.items()))
    print(f"{options.out}: {sum(counts.values()):,} images ({splits}), {len(export.classes)} classes")
    if problems:
        print(f"warning: {format_problems(f'{len(problems):,} not converted', problems)}", file=sys.stderr)
    return 0


def check_flags(options: argparse.Namespace) -> None:
    """Raise InputError for an unknown format, a flag that the format does not use, or a split that is no directory name."""
    if options.format not in FORMATS:
        hint = did_you_mean(options.format, FORMATS)
        raise InputError(f"--from: unknown format {options.format!r}{hint}; known: {', '.join(FORMATS)}")
    for flag, value in (("--background", options.background), ("--classes", options.classes)):
        if value is not None and flag not in FORMATS[options.format]:
            users = [name for name, flags in FORMATS.items() if flag in flags]
            raise InputError(f"{flag}: not used by {options.format}, only by {', '.join(users)}")
        if value is not None and not all(name.strip() for name in value.split(",")):
            raise InputError(f"{flag}: has an empty name: {value!r}")
    if options.split is not None and (Path(options.split).name != options.split or options.split.startswith(".")):
        raise InputError(f"--split: expected the name of a directory, such as train or val, got {options.split!r}")
