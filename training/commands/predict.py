"""The `predict` command: a mask for every photograph, a film for every film.

python -m training predict ddunet street.jpg                                 masks/street.png
python -m training predict runs/ddunet drive/ --out masks --overlay          a folder, its tree kept
python -m training predict runs/ddunet 'drive/**/*_left*.png' clip.mp4       a pattern; a film: masks/clip_overlay.webm
python -m training predict runs/ddunet drive/ --out submission --ids label   Cityscapes label ids
torchrun --nproc-per-node 8 -m -- training predict runs/ddunet drive/        a share for each process

A second run passes over what is done; --force makes it anew.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from core.errors import InputError
from core.images.decode import RGB, read_photo
from core.images.encode import grey_png, indexed_png
from core.inference.result import Result
from core.inference.segmenter import How, Segmenter
from core.runtime.files import make_folder, write_atomically
from core.runtime.threads import prefetch
from training.commands.evaluate import add_device_flags, add_how_flags, own_device, require_same_network
from training.distributed.context import World, join
from training.output_paths import require_file, require_folder
from training.prediction.jobs import Job, plan
from training.prediction.manifest import Done, Mark, Told
from training.prediction.video import KINDS, segment_film
from training.tracking.progress_bar import bar

AHEAD = 4  # photographs that are decoded while one is segmented


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Flags of `predict`."""
    parser = commands.add_parser(
        "predict",
        help="segment photographs and films",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run_command=run)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a file, a run folder (its best) or the name of a shipped one")
    parser.add_argument(
        "inputs", nargs="+", metavar="IMAGE_OR_DIR_OR_VIDEO", help="photographs, films, folders of them, or quoted patterns"
    )
    parser.add_argument("--out", default=Path("masks"), type=Path, metavar="DIR", help="folder for the masks (default: masks)")
    parser.add_argument("--overlay", action="store_true", help="of photographs, also write <stem>_overlay.png")
    parser.add_argument(
        "--film",
        choices=tuple(KINDS),
        default="overlay",
        help="of films: the overlay, the mask, or the film beside its overlay (default: overlay)",
    )
    parser.add_argument(
        "--ids",
        choices=("train", "label"),
        default="train",
        help="pixel values: class indices with a palette, or the data set's label ids in grey (default: train)",
    )
    parser.add_argument("--force", action="store_true", help="make anew what is done already")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write size and class shares of every file")
    add_how_flags(parser)
    add_device_flags(parser)


def run(options: argparse.Namespace, arguments: list[str]) -> int:
    """Write OUT/<relative path>/<stem>.png for each photograph; a bad one is told and passed over, exit 1 at the end.

    Of several processes each takes every so manieth file; what a lost one leaves undone is done by a second run.
    """
    require_folder(options.out, "--out")
    if options.json:
        require_file(options.json, "--json")
    with join(options.device != "cpu") as world:
        predictor = Predictor(options, world)
        require_same_network(predictor.segmenter, world)
        jobs, earlier = world.share(predictor.look(options) if world.main else None) or ([], {})
        make_folder(options.out)
        todo = [job for job in jobs if job not in earlier]
        mine = todo[world.rank :: world.ranks]
        shares = world.collect([outcome._asdict() for outcome in predictor.all(mine, shown=world.main)])
    if shares is None:
        return 0  # the first one tells how all of it went
    outcomes = {job: Outcome(told, earlier=True) for job, told in earlier.items()}
    for rank, share in enumerate(shares):
        outcomes |= dict(zip(todo[rank :: world.ranks], (Outcome(**each) for each in share), strict=True))
    failed = [job for job in jobs if "error" in outcomes[job].told]
    if options.json:
        files = [{"file": str(job.source), "written": list(map(str, job.targets)), **outcomes[job].told} for job in jobs]
        summary = {"checkpoint": str(options.checkpoint), **predictor.made_by, "files": files}
        write_atomically(options.json, [json.dumps(summary, indent=1).encode()])
    replaced = sum(outcome.replaced for outcome in outcomes.values())
    told = f", {len(earlier)} of them from before (--force makes them anew)" * bool(earlier)
    told += f", {replaced} in place of those of another checkpoint, or made otherwise" * bool(replaced)
    what = "masks" if not any(job.film for job in jobs) else "films" if all(job.film for job in jobs) else "masks and films"
    print(f"{len(jobs) - len(failed)} of {len(jobs)} {what} in {options.out}{told}")
    return 1 if failed else 0


class Outcome(NamedTuple):
    """What became of a file: what is told of it, whether it was done before, and whether it took another one's place."""

    told: Told
    earlier: bool = False
    replaced: bool = False


class Predictor:
    """Segments files with one checkpoint in one way; what it tells of each is for --json."""

    def __init__(self, options: argparse.Namespace, world: World) -> None:
        """Open the checkpoint. Raises InputError."""
        self.segmenter = Segmenter(options.checkpoint, own_device(options.device, options.backend, world), options.backend)
        self.how, self.ids, self.kind = How(options.resolution == "native", options.flip), options.ids, options.film
        backend = self.segmenter.backend
        self.made_by = {
            "backend": backend.name, "digest": backend.digest, "ids": self.ids,
            "resolution": options.resolution, "flip": options.flip,
        }  # fmt: skip
        self.done = Done(options.out, self.made_by, world.rank)

    def look(self, options: argparse.Namespace) -> tuple[list[Job], dict[Job, Told]]:
        """All jobs, and what is told of those that are done, which with `--force` are none. Raises InputError."""
        jobs = plan(options.inputs, options.out, options.overlay, options.film)
        return jobs, {} if options.force else {job: told for job in jobs if (told := self.done.told(job)) is not None}

    def all(self, jobs: list[Job], shown: bool) -> list[Outcome]:
        """Every job's outcome, in their order."""
        replaced = {job for job in jobs if self.done.otherwise(job)}
        photographs = [job for job in jobs if not job.film]
        outcomes = dict(self.photographs(photographs, shown and len(photographs) > 1))
        outcomes |= {job: self.film(job) for job in jobs if job.film}
        return [Outcome(outcomes[job], replaced=job in replaced) for job in jobs]

    def segment(self, rgb: RGB) -> Result:
        """One photograph or frame."""
        return Result(rgb, self.segmenter.many([rgb], how=self.how)[0], self.segmenter.labels)

    def photographs(self, jobs: list[Job], shown: bool) -> Iterator[tuple[Job, Told]]:
        """Each photograph's outcome; the next ones are read meanwhile."""
        with ThreadPoolExecutor(2) as pool:
            read = prefetch(pool, self._read, jobs, AHEAD)
            for job, found in bar("predicting", shown, zip(jobs, read, strict=True), total=len(jobs), unit="image"):
                yield job, _failed(found) if isinstance(found, Exception) else self._photograph(job, *found)

    def _read(self, job: Job) -> tuple[Mark, RGB] | Exception:
        """A photograph, or why it is none: an exception would end the others, too."""
        try:
            return self.done.mark(job), read_photo(job.source)
        except (InputError, OSError) as error:
            return error

    def _photograph(self, job: Job, mark: Mark, rgb: RGB) -> Told:
        result = self.segment(rgb)
        mask, *overlays = job.targets
        self.done.begin(job)
        make_folder(mask.parent)
        write_atomically(mask, [encode(result, self.ids)])
        for path in overlays:
            result.save(path, overlay=True)
        told = {"size": list(result.size), "shares": result.shares}
        self.done.add(job, mark, told)
        return told

    def film(self, job: Job) -> Told:
        """A film's outcome."""
        try:
            mark = self.done.mark(job)
            self.done.begin(job)
            made = segment_film(job.source, job.targets[0], self.segment, self.kind)
        except (InputError, FileNotFoundError) as error:
            return _failed(error)
        told = {"size": list(made.size), "frames": made.frames, "rate": made.rate, "shares": made.shares}
        self.done.add(job, mark, told)
        return told


def encode(result: Result, ids: str) -> bytes:
    """The mask as a file: class indices with the palette, or the data set's label ids in 8-bit (or 16-bit) grey."""
    if ids == "train":
        return indexed_png(result.labels, result.classes)
    values = result.classes.decode(result.labels)
    return grey_png(values.astype(np.uint8) if max(result.classes.ids) < 256 else values)


def _failed(error: Exception) -> Told:
    tqdm.write(f"error: {error}", file=sys.stderr)
    return {"error": str(error)}
