"""The `compare` command: which of several checkpoints is better, by number and by eye, on one page.

python -m training compare runs/unet runs/r2unet runs/ddunet --data datasets/cityscapes --split val --out report
python -m training compare runs/unet-* runs/ddunet-* --data datasets/cityscapes --out report     three seeds of each or more
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.backends.torch_cpu import choose_device
from core.data.datasets import Dataset
from core.errors import InputError
from core.evaluation.report import EARLIER, require_same_labels
from training.commands.evaluate import add_definition_flags, add_device_flags, definition
from training.comparison import costs, words
from training.comparison.contestants import Contestant, open_contestants
from training.comparison.counting import count_all
from training.comparison.document import Comparison
from training.comparison.summary import Measured, summarise
from training.data.training_data import check, open_data
from training.output_paths import require_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Flags of `compare`."""
    parser = commands.add_parser(
        "compare", help="compare checkpoints on one page", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(run_command=run)
    parser.add_argument("checkpoints", nargs="+", metavar="RUN_OR_CHECKPOINT", help="run folders, files, names of shipped ones")
    parser.add_argument("--data", required=True, metavar="DIR", help="data folder, or `synthetic`")
    parser.add_argument("--split", default="val", help="split to compare on (default: val)")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the page, figures and numbers")
    parser.add_argument(
        "--training-steps", type=int, default=3, metavar="N", help="steps of training to time; 0: none (default: 3)"
    )
    add_definition_flags(parser, EARLIER)
    add_device_flags(parser)


def run(options: argparse.Namespace, arguments: list[str]) -> int:
    """Everything that is wrong is told first; then costs, one pass over the data, and the page."""
    from training.comparison import page  # matplotlib takes half a second, which the other commands do not have

    if options.training_steps < 0:
        raise InputError(f"--training-steps: expected 0 or more, got {options.training_steps}")
    require_folder(options.out, "--out")
    if (options.out / "index.html").exists() and not (options.out / "report.json").exists():
        raise InputError(f"--out: {options.out} holds another index.html, which would be replaced; choose another folder")
    other = definition(options)
    dataset = open_data(options.data, options.split)
    contestants = open_contestants(options.checkpoints, options.device, options.backend)
    require_same_labels(contestants[0].segmenter.labels, dataset.labels)
    check(dataset)
    height, width = dataset[0][1].shape
    peaks = costs.peak_memories(contestants, (height, width), options.backend)
    counted, disagreement = count_all(contestants, dataset, other)
    # last, since training changes how this process keeps its memory
    speeds = costs.training_speeds(contestants, choose_device(options.device), options.training_steps)
    measured = [Measured(speed, peak) for speed, peak in zip(speeds, peaks, strict=True)]
    command = shlex.join(["python", "-m", "training", *arguments])
    comparison = summarise(contestants, dataset, counted, disagreement, measured, other, command)
    page.write(comparison, figures(comparison, contestants, dataset), options.out)
    for pair in (*comparison.architecture_pairs, *comparison.pairs):
        print(pair.verdict)
    if words.speaks_of_checkpoints_alone(comparison):
        print(words.ABOUT_CHECKPOINTS)
    print(f"page: {options.out / 'index.html'}")
    return 0


def figures(comparison: Comparison, contestants: Sequence[Contestant], dataset: Dataset) -> Iterator[tuple[str, str, Figure]]:
    """Name, caption and figure: the plots, then the grids of pictures."""
    from training.comparison.figures import plots
    from training.comparison.grids import CAPTIONS, grid

    yield from plots(comparison)
    apart = [example for example in comparison.examples if example.rule == "disagreement"]
    chosen = [example for example in comparison.examples if example.rule != "disagreement"]
    names = [contestant.name for contestant in contestants]
    for name, rows in (("examples", chosen), ("disagreement", apart)):
        if rows:
            samples = [dataset[example.index] for example in rows]
            cells = [(e, *s, [c.segmenter(s[0]).labels for c in contestants]) for e, s in zip(rows, samples, strict=True)]
            yield name, CAPTIONS[name], grid(cells, names, dataset.labels, apart=rows is apart)
