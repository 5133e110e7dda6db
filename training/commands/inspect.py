"""Show what datasets contain: images, sizes, class fractions, unusable files, and labels that can't be meant.

python -m training inspect --data datasets/mine
python -m training inspect --data datasets/mine datasets/more           several, also for images that they share
python -m training inspect --data datasets/mine --out inspection        also a bar plot and contact sheets

The exit code is 2 if `train` would refuse the data.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.commands.options import add_label_flag
from training.output_paths import STDOUT, check_json_output, check_output_dir, write_json

if TYPE_CHECKING:
    from training.inspection.scan import SplitInspection


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", nargs="+", help="data directories")
    parser.add_argument(
        "--extra-classes",
        choices=("error", "void"),
        default="error",
        help="what to do with classes of further data directories that the first one lacks (default: error)",
    )
    add_label_flag(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="directory for figures: class fractions and contact sheets")
    parser.add_argument("--json", metavar="FILE", help="file for the numbers; -: standard output")


def run(options: argparse.Namespace, arguments: list[str]) -> int:
    """Scan all splits, print the tables, and write the figures."""
    from core.data.datasets import format_problems
    from training.inspection.scan import find_warnings, inspect_splits

    check_json_output(options.json)
    if options.out:
        check_output_dir(options.out, "--out")
    inspections = inspect_splits(options.data, options.label_ids == "train", options.extra_classes == "void")
    refusals, warnings = find_warnings(inspections)
    text_file = sys.stderr if options.json == STDOUT else sys.stdout
    print(format_tables(options.data, inspections), file=text_file)
    if options.out:
        write_figures(inspections, options.out)
        print(f"figures: {options.out}", file=text_file)
    if options.json:
        write_json(options.json, json.dumps(as_document(inspections, refusals, warnings), indent=2))
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for inspection in inspections:
        if inspection.problems:
            summary = f"{inspection.name}: {len(inspection.problems):,} problems"
            print(f"error: {format_problems(summary, inspection.problems)}", file=sys.stderr)
    for refusal in refusals:
        print(f"error: {refusal}", file=sys.stderr)
    return 2 if refusals or any(inspection.problems for inspection in inspections) else 0


def format_tables(roots: Sequence[Path], inspections: list[SplitInspection]) -> str:
    """Return a table of the splits and, if a split can be opened, one of the class fractions."""
    column = max(12, *(len(inspection.name) for inspection in inspections))
    lines = [f"{'split':<{column}} {'images':>8} {'unusable':>9}  sizes (width x height)"]
    for inspection in inspections:
        sizes = [f"{width}x{height} ({count:,})" for (height, width), count in inspection.sizes.most_common(3)]
        more = f" and {len(inspection.sizes) - 3} more" if len(inspection.sizes) > 3 else ""
        images = sum(inspection.sizes.values())
        lines.append(f"{inspection.name:<{column}} {images:>8,} {len(inspection.problems):>9,}  {', '.join(sizes)}{more}")
    opened = [inspection for inspection in inspections if inspection.dataset]
    space = next((inspection.dataset.labels for inspection in opened if inspection.dataset), None)
    if space:
        width = max(map(len, (*space.names, "% of labeled pixels")))
        lines += ["", f"{'% of labeled pixels':<{width}} " + " ".join(f"{inspection.name:>{column}}" for inspection in opened)]
        for k, name in enumerate(space.names):
            shares = [100 * inspection.class_fractions[k] for inspection in opened]
            lines.append(
                f"{name:<{width}} " + " ".join(f"{share:>{column}.3f}" if share > 0 else f"{'-':>{column}}" for share in shares)
            )
        void = [100 * inspection.pixels[-1] / max(inspection.pixels.sum(), 1) for inspection in opened]
        lines.append(f"{'(void, of all)':<{width}} " + " ".join(f"{share:>{column}.3f}" for share in void))
    title = " + ".join(map(str, roots))
    return "\n".join([f"{title}: {space.name}, {len(space)} classes" if space else title, *lines])


def write_figures(inspections: list[SplitInspection], directory: Path) -> None:
    """Write class-fractions.png and a contact sheet of each split."""
    from training.inspection.figures import class_fraction_bars, contact_sheet

    opened = [inspection for inspection in inspections if inspection.dataset and inspection.sizes]
    directory.mkdir(parents=True, exist_ok=True)
    if opened and opened[0].dataset:
        class_fraction_bars(opened, opened[0].dataset.labels).savefig(directory / "class-fractions.png", dpi=110)
    for inspection in opened:
        path = directory / f"{inspection.name}.png"
        path.parent.mkdir(exist_ok=True)
        contact_sheet(inspection).savefig(path, dpi=110)


def as_document(inspections: list[SplitInspection], refusals: list[str], warnings: list[str]) -> dict[str, Any]:
    """Return the numbers as a JSON document."""
    splits = {}
    for inspection in inspections:
        names = inspection.dataset.labels.names if inspection.dataset else ()
        splits[inspection.name] = {
            "images": sum(inspection.sizes.values()),
            "sizes": [{"height": h, "width": w, "images": n} for (h, w), n in inspection.sizes.most_common()],
            "pixels": dict(zip(names, inspection.pixels.tolist(), strict=False)),
            "void_pixels": int(inspection.pixels[-1]),
            "problems": inspection.problems,
        }
    return {"splits": splits, "refusals": refusals, "warnings": warnings}
