"""Export a checkpoint: fp16 weights for distribution, or its network for OpenVINO on a CPU, or as ONNX for other programs.

python -m training export runs/ddunet --int8 --data datasets/cityscapes
python -m training export runs/ddunet --onnx
python -m training export runs/ddunet --to fp16 --out ddunet.safetensors --data datasets/cityscapes --license "CC BY 4.0"
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import InputError
from training.commands.options import add_checkpoint_argument, add_image_flags, add_label_flag
from training.output_paths import check_output_file

if TYPE_CHECKING:
    from core.checkpoints.checkpoint import Checkpoint
    from core.data.datasets import Dataset


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add_checkpoint_argument(parser)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--to", choices=("fp16",), help="fp16: checkpoint of half the size, still run in fp32")
    target.add_argument(
        "--int8",
        action="store_true",
        help="OpenVINO model NAME.int8 beside the checkpoint, calibrated with training images of --data, scored on --split",
    )
    target.add_argument("--fp32", action="store_true", help="OpenVINO model NAME.fp32 beside the checkpoint")
    target.add_argument("--onnx", action="store_true", help="ONNX file NAME.onnx beside the checkpoint, for ONNX Runtime")
    parser.add_argument(
        "--with-preprocess",
        action="store_true",
        help="with --onnx: a file NAME.preprocess.onnx that maps uint8 images of any size to their label maps",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="file to write, with --to or --onnx (default: NAME.fp16.safetensors or NAME.onnx beside the checkpoint)",
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="data directory, or `synthetic`, for scores (default: no scores) or, with --onnx, for the comparison with torch"
        " (default: noise)",
    )
    parser.add_argument("--split", default="val", help="split to score on (default: val)")
    add_label_flag(parser)
    add_image_flags(parser)
    parser.add_argument("--license", help="license of the weights, with --to (default: that of the checkpoint)")
    parser.add_argument(
        "--limitations", help="known limitations of the model in a sentence, with --to (default: those of the checkpoint)"
    )
    # The names of release 0.1.
    parser.add_argument("--licence", dest="license", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument("--limits", dest="limitations", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def run(options: argparse.Namespace, arguments: list[str]) -> int:
    """Export to the target that the flags specify."""
    from core.checkpoints.checkpoint import PRETRAINED, SUFFIX, find_checkpoint, read_checkpoint
    from core.checkpoints.onnx_file import onnx_path
    from core.data.datasets import reduce_images
    from core.evaluation.evaluator import require_same_labels
    from training.data.training_data import open_split, validate_samples

    _check_flags(options)
    name, path = find_checkpoint(options.checkpoint)
    checkpoint = read_checkpoint(path, name)
    if options.out is None and path.resolve().parent == PRETRAINED.resolve():
        is_file = options.to or options.onnx
        advice = "specify the file to write with --out" if is_file else f"copy {path}, and export the copy"
        raise InputError(f"{name} is a bundled checkpoint, and exports must not be added to its directory; {advice}")
    onnx_name = f"{path.stem}.preprocess.onnx" if options.with_preprocess else onnx_path(path).name
    default_name = onnx_name if options.onnx else f"{path.stem}.{options.to}{SUFFIX}"
    out = _output_file(options.out, path, default_name) if options.to or options.onnx else None
    dataset = open_split(options.data, options.split, options.label_ids, options.max_pixels) if options.data else None
    if dataset:
        require_same_labels(checkpoint.metadata.labels, dataset.labels)
        validate_samples(dataset)
        if not options.with_preprocess:  # Its graph resizes whole images by itself.
            dataset = reduce_images(dataset, checkpoint.metadata.preprocess)
    if out is None:
        return _export_openvino(options, checkpoint, dataset)
    return (_export_onnx if options.onnx else _export_fp16)(options, checkpoint, out, dataset)


def _check_flags(options: argparse.Namespace) -> None:
    """Raise InputError for flags that do not fit the target."""
    if options.out is not None and not (options.to or options.onnx):
        raise InputError("--out: only valid with --to and --onnx; an OpenVINO model is written beside its checkpoint")
    for flag, value in (("--license", options.license), ("--limitations", options.limitations)):
        if value is not None and not options.to:
            raise InputError(f"{flag}: only valid with --to; other exports have those of the checkpoint")
    if options.with_preprocess and not options.onnx:
        raise InputError("--with-preprocess: only valid with --onnx")
    if options.int8 and not options.data:
        raise InputError("--int8: needs --data DIR: training images for calibration, and --split for the scores")
    missing = [package for package in ("onnx", "onnxruntime", "onnxscript") if find_spec(package) is None]
    if options.onnx and missing:
        raise InputError(f"--onnx: not installed: {', '.join(missing)}; run pip install {' '.join(missing)}")


def _output_file(out: Path | None, source: Path, default_name: str) -> Path:
    """Return the file to write. Raises InputError if it can't be written or has another suffix than the default name."""
    out, suffix = out or source.with_name(default_name), Path(default_name).suffix
    if out.suffix != suffix:
        raise InputError(f"--out: {out}: expected a file name that ends with {suffix}")
    check_output_file(out, "--out")
    if out.exists() and out.samefile(source):
        raise InputError(f"--out: {out} is the checkpoint itself; choose another file")
    return out


def _export_fp16(options: argparse.Namespace, checkpoint: Checkpoint, out: Path, dataset: Dataset | None) -> int:
    from training.export.fp16 import export_fp16
    from training.tracking.history import history_beside

    digest, scores, has_history = export_fp16(checkpoint, out, dataset, options.license, options.limitations)
    if has_history:
        print(f"{history_beside(out)}: training history")
    numbers = "".join(f", {key} {value:.4f}" for key, value in scores.items() if value is not None)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, digest {digest[:16]}{numbers}")
    return 0


def _export_onnx(options: argparse.Namespace, checkpoint: Checkpoint, out: Path, dataset: Dataset | None) -> int:
    from training.export.onnx import export_onnx
    from training.export.onnx_preprocess import OPSET

    digest, comparison = export_onnx(checkpoint, out, options.with_preprocess, dataset)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, opset {OPSET}, digest {digest[:16]}, {comparison}")
    return 0


def _export_openvino(options: argparse.Namespace, checkpoint: Checkpoint, dataset: Dataset | None) -> int:
    from core.data.datasets import reduce_images
    from training.data.training_data import open_split
    from training.export.openvino import ExportScores, export_fp32, export_int8

    scores: ExportScores | None
    if options.int8 and dataset:
        train_split = open_split(options.data, "train", options.label_ids, options.max_pixels)
        calibration_set = reduce_images(train_split, checkpoint.metadata.preprocess)
        directory, digest, scores = export_int8(checkpoint, calibration_set, dataset)
    else:
        directory, digest, scores = export_fp32(checkpoint, dataset)
    size = sum(file.stat().st_size for file in directory.iterdir()) / 1e6
    quality = f", {scores.scored_on}: {scores.describe()}" if scores else ""
    print(f"{directory}: {size:.1f} MB, digest {digest[:16]}{quality}")
    return 0
