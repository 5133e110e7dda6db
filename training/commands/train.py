"""Train a model, with an evaluation and a checkpoint after every epoch. Stop it at any time, and resume it with --resume.

python -m training train --model ddunet --data datasets/cityscapes            all visible GPUs, one process each
torchrun --standalone --nproc-per-node 2 -m -- training train --model unet --data DIR    one of torchrun's processes
python -m training train --model ddunet --data synthetic --width 16 --epochs 2 --size 128 256        small test on a CPU
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from training.config import TrainConfig
from training.distributed.context import restart_count
from training.distributed.launcher import EXIT_INTERRUPTED, read_payload, stop_message
from training.distributed.signals import sigterm_as_interrupt

GROUPS = {
    "model": ("model", "width", "init", "checkpoint_activations"),
    "data": (
        *("data", "extra_classes", "train_split", "val_split", "val_fraction", "label_ids", "max_pixels", "skip_bad"),
        *("workers", "cache"),
        *("size", "crop", "augment", "scale", "aspect", "resize", "jpeg", "jitter"),
    ),
    "schedule": (
        *("epochs", "batch_size", "accumulate", "learning_rate", "schedule", "warmup", "resume_schedule", "patience", "seed"),
    ),
    "loss and optimizer": ("loss", "class_weights", "weight_decay", "clip", "ema"),
    "output": ("run", "resume", "keep", "export", "checkpoint_every"),
    "devices": ("gpus", "precision", "compile", "max_restarts", "timeout"),
}
METAVARS = {"data": "DIR", "train_split": "SPLIT", "val_split": "SPLIT", "run": "DIR", "cache": "DIR", "init": "CHECKPOINT"}
PAIRS = {"size": ("H", "W"), "crop": ("H", "W"), "scale": ("MIN", "MAX"), "aspect": ("MIN", "MAX")}  # flags with two values


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each field of the configuration, which validates types and limits itself."""
    parser.usage = "python -m training train --model MODEL --data DIR [DIR ...] [--run runs/NAME] [--resume] [flags]"
    parser.epilog = (
        "Every flag can also be specified as an environment variable (TRAIN_BATCH_SIZE=4) or in a --config file; a flag takes"
        " precedence over the environment, and the environment over the file."
    )
    for title, names in GROUPS.items():
        group = parser.add_argument_group(title)
        for name in names:
            field = TrainConfig.model_fields[name]
            flag, text = "--" + name.replace("_", "-"), field.description or ""
            if field.annotation is bool:
                group.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=text)
                continue
            if field.default is not None:
                text += (
                    f" (default: {' '.join(map(str, field.default)) if isinstance(field.default, tuple) else field.default})"
                )
            types = (field.annotation, *get_args(field.annotation))  # The second is that of an optional field.
            choices = next((get_args(kind) for kind in types if get_origin(kind) is Literal), ())
            values: dict[str, Any] = {"metavar": "|".join(choices) or METAVARS.get(name, name.upper())}
            if name in PAIRS:
                values = {"metavar": PAIRS[name], "nargs": 2}
            elif name == "data":
                values["nargs"] = "+"
            group.add_argument(flag, default=argparse.SUPPRESS, help=text, **values)
    parser.add_argument("--config", type=Path, metavar="FILE", help="JSON object of settings, with the flags' names as keys")


def run(options: argparse.Namespace, arguments: list[str]) -> int:
    """Train in this process or in one process per GPU; a signal before the first step is not an error."""
    try:
        with sigterm_as_interrupt():  # until the training loop handles the signals
            from training.engine.job import run_job

            flags = {key: value for key, value in vars(options).items() if key in TrainConfig.model_fields}
            return run_job(flags, options.config, arguments)
    except KeyboardInterrupt:
        if read_payload() is not None:
            return EXIT_INTERRUPTED  # The launcher stops the other processes, which may have started training.
        print(stop_message(restart_count()), flush=True)
        return 0
