"""Flags that several commands share. Imports nothing that `--help` does not need."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from core.errors import InputError
from core.images.limits import MAX_PIXELS

if TYPE_CHECKING:
    from core.evaluation.report import ScoringProtocol


def add_checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    """Add the checkpoint to work on."""
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="checkpoint file, run directory (its best checkpoint), or name of a bundled checkpoint",
    )


def add_label_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag for labels that hold train ids."""
    parser.add_argument(
        "--label-ids",
        choices=("auto", "train"),
        default="auto",
        help="values of the label files; auto: by file name and classes.json; train: train ids 0, 1, ... (default: auto)",
    )


def add_image_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flag that limits the size of images."""
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        metavar="N",
        help=f"maximum number of pixels of an image (default: {MAX_PIXELS})",
    )


def add_protocol_flags(parser: argparse.ArgumentParser, threshold: float | None = None, score_size: str = "label") -> None:
    """Add the flags of the scoring protocol, with the given defaults."""
    parser.add_argument(
        "--threshold",
        type=float,
        default=threshold,
        metavar="P",
        help="minimum softmax probability, 0.5 to 1; less certain pixels have no predicted class"
        f" (default: {'none, argmax' if threshold is None else threshold})",
    )
    parser.add_argument(
        "--score-at",
        choices=("label", "input"),
        default=score_size,
        help=f"size at which pixels are scored: the label's own, or the network's (default: {score_size})",
    )


def protocol_from_args(options: argparse.Namespace) -> ScoringProtocol:
    """Return the scoring protocol that the flags specify, with the inference flags if the command has them.

    Raises InputError.
    """
    from pydantic import ValidationError

    from core.evaluation.report import ScoringProtocol

    try:
        return ScoringProtocol(
            threshold=options.threshold,
            score_size=options.score_at,
            inference_resolution=getattr(options, "resolution", "network"),
            hflip_tta=getattr(options, "flip", False),
        )
    except ValidationError:
        raise InputError(
            f"--threshold: expected at least 0.5 and less than 1, got {options.threshold}; below 0.5 two classes could pass,"
            " but a pixel has only one"
        ) from None


def add_inference_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that select how an image goes through the network."""
    parser.add_argument(
        "--resolution",
        choices=("network", "native"),
        default="network",
        help="inference resolution; network: resize the image; native: sliding window at full resolution (default: network)",
    )
    parser.add_argument("--flip", action="store_true", help="horizontal-flip test-time augmentation, takes twice the time")


def add_device_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that select what runs the network."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument(
        "--backend",
        default="auto",
        type=_backend,
        metavar="BACKEND",
        help="auto, torch[-fp16][-compiled], openvino-int8, openvino-fp32 or onnx (default: auto)",
    )


def _backend(name: str) -> str:
    from core.backends.base import BACKENDS

    if name not in ("auto", *BACKENDS):
        raise argparse.ArgumentTypeError(f"unknown backend {name!r}; known: auto, {', '.join(BACKENDS)}")
    return name
