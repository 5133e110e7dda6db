"""Segment images and videos: a mask for each image, a rendered video for each video.

python -m training predict ddunet street.jpg                                 masks/street.png
python -m training predict runs/ddunet drive/ --out masks --overlay          a directory, whose tree is kept
python -m training predict runs/ddunet drive/ --overlay --legend --confidence
python -m training predict runs/ddunet 'drive/**/*_left*.png' clip.mp4       a pattern; a video: masks/clip_overlay.mp4
python -m training predict runs/ddunet rtsp://camera/1                       a stream, until Ctrl-C; a camera: /dev/video0
python -m training predict runs/ddunet drive/ --out submission --ids label   Cityscapes label ids
torchrun --nproc-per-node 8 -m -- training predict runs/ddunet drive/        a part of the files for each process
cat street.jpg | python -m training predict ddunet - --out - > mask.png      standard input and output

A second run skips the files that are done; --force repeats them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from training.commands.options import add_checkpoint_argument, add_device_flags, add_image_flags, add_inference_flags
from training.output_paths import STDOUT, check_json_output, check_output_dir, write_json

if TYPE_CHECKING:
    from training.prediction.jobs import Job
    from training.prediction.manifest import ResultInfo
    from training.prediction.predictor import Predictor

RENDERINGS = ("overlay", "mask", "beside")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add_checkpoint_argument(parser)
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IMAGE_OR_DIR_OR_VIDEO",
        help="images, videos, directories of them, quoted patterns, cameras (/dev/video0), streams (rtsp://...), or -: an image"
        " from standard input, whose results are named stdin",
    )
    parser.add_argument(
        "--out",
        default="masks",
        metavar="DIR",
        help="output directory (default: masks); -: write the mask of one image, or with --overlay or --confidence only that,"
        " to standard output",
    )
    parser.add_argument("--overlay", action="store_true", help="also write NAME_overlay.png for each image")
    parser.add_argument(
        "--confidence",
        action="store_true",
        help="also write NAME_confidence.png for each image: the probability of each pixel's class in gray, 255 is 1",
    )
    parser.add_argument("--legend", action="store_true", help="add the names of the classes to overlays and videos")
    parser.add_argument(
        "--video",
        choices=RENDERINGS,
        default="overlay",
        help="rendering of a video: overlay, mask, or the video beside its overlay (default: overlay)",
    )
    parser.add_argument(
        "--video-format", choices=("mp4", "webm"), default="mp4", help="mp4: H.264; webm: VP8, with free codecs (default: mp4)"
    )
    # The name of release 0.1.
    parser.add_argument("--film", dest="video", choices=RENDERINGS, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--ids",
        choices=("train", "label"),
        default="train",
        help="pixel values of a mask: class indices with a palette, or the dataset's label ids in gray (default: train)",
    )
    parser.add_argument("--force", action="store_true", help="repeat the files that are done")
    parser.add_argument(
        "--json", metavar="FILE", help="file for the size and the class fractions of every result; -: standard output"
    )
    add_image_flags(parser)
    add_inference_flags(parser)
    add_device_flags(parser)


def run(options: argparse.Namespace, arguments: list[str]) -> int:
    """Predict all files; one that can't be read is reported, and makes the exit code 1 at the end.

    Of several ranks each takes every Nth file. The files of a lost rank are done by a second run.
    """
    from core.errors import InputError
    from core.inference.options import InferenceOptions
    from core.runtime.atomic import makedirs_durable
    from training.distributed.context import init_distributed
    from training.inference import open_segmenter
    from training.prediction.jobs import STDIN, plan_jobs
    from training.prediction.predictor import Outcome, Predictor
    from training.prediction.standard_streams import read_stdin

    out, to_stdout = Path(options.out), options.out == STDOUT
    if to_stdout:
        _check_stdout(options)
    else:
        check_output_dir(out, "--out")
    check_json_output(options.json)
    with init_distributed(options.device != "cpu") as context:
        if context.world_size > 1 and (STDIN in options.inputs or to_stdout):
            raise InputError("-: several processes can't share standard input or output; run the command without torchrun")
        stdin = read_stdin(options.max_pixels) if STDIN in options.inputs else b""
        segmenter = open_segmenter(options.checkpoint, options.device, options.backend, context)
        inference = InferenceOptions(options.resolution == "native", options.flip)
        predictor = Predictor(
            segmenter, inference, out, options.ids, options.video, options.legend, context.rank, options.max_pixels
        )
        plan = None
        if context.is_main:
            suffixes = ["_overlay"] * options.overlay + ["_confidence"] * options.confidence
            jobs = plan_jobs(options.inputs, out, suffixes, options.video, f".{options.video_format}", stdin)
            if to_stdout:
                return _predict_to_stdout(options, predictor, jobs)
            plan = jobs, {} if options.force else predictor.find_finished(jobs)
        jobs, finished = context.broadcast(plan)
        makedirs_durable(out)
        pending = [job for job in jobs if job not in finished]
        shard = predictor.run_jobs(pending[context.rank :: context.world_size], show_progress=context.is_main)
        shards = context.gather_to_main([outcome._asdict() for outcome in shard])
    if shards is None:
        return 0  # Rank 0 reports the outcome of all ranks.
    outcomes = {job: Outcome(result, reused=True) for job, result in finished.items()}
    for rank, rank_outcomes in enumerate(shards):
        rank_jobs = pending[rank :: len(shards)]
        outcomes |= {job: Outcome(**outcome) for job, outcome in zip(rank_jobs, rank_outcomes, strict=True)}
    files = [{"file": str(job.source), "written": list(map(str, job.targets)), **outcomes[job].result} for job in jobs]
    _write_json(options, predictor, files)
    num_failed = sum("error" in outcome.result for outcome in outcomes.values())
    num_replaced = sum(outcome.replaced for outcome in outcomes.values())
    kinds = {"videos" if job.is_video else "masks" for job in jobs}
    summary = f"{len(jobs) - num_failed} of {len(jobs)} {' and '.join(sorted(kinds))} in {out}"
    if finished:
        summary += f", {len(finished)} of them from an earlier run (--force repeats them)"
    if num_replaced:
        summary += f", {num_replaced} replacing those of another checkpoint or of other options"
    print(summary, file=sys.stderr if options.json == STDOUT else sys.stdout)
    return 1 if num_failed else 0


def _check_stdout(options: argparse.Namespace) -> None:
    """Raise InputError if more than one result would be written to standard output, or an image to a terminal."""
    from core.errors import InputError
    from training.prediction.standard_streams import check_stdout

    if options.json == STDOUT:
        raise InputError("--json: standard output is for the image (--out -); specify a file for the JSON document")
    if options.overlay and options.confidence:
        raise InputError("--out: standard output takes one image; specify --overlay or --confidence, or an output directory")
    check_stdout()


def _predict_to_stdout(options: argparse.Namespace, predictor: Predictor, jobs: list[Job]) -> int:
    """Write the result of the only job to standard output. Raises InputError if it is not a single image."""
    from core.errors import InputError
    from training.prediction.standard_streams import write_stdout

    if len(jobs) > 1 or jobs[0].is_video:
        kind = "a video" if len(jobs) == 1 else f"{len(jobs)} files"
        raise InputError(f"--out: standard output takes one image, got {kind}; specify an output directory")
    png, result = predictor.segment_to_png(
        jobs[0], "overlay" if options.overlay else "confidence" if options.confidence else "mask"
    )
    write_stdout(png)
    _write_json(options, predictor, [{"file": str(jobs[0].source), "written": [STDOUT], **result}])
    return 1 if "error" in result else 0


def _write_json(options: argparse.Namespace, predictor: Predictor, files: list[ResultInfo]) -> None:
    """Write the document of --json, if it is requested."""
    if options.json:
        document = {"checkpoint": options.checkpoint, **predictor.settings, "files": files}
        write_json(options.json, json.dumps(document, indent=1))
