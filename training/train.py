"""The `train` command: an evaluation and a checkpoint after every epoch; stop it at any time, --resume goes on.

python -m training train --model ddunet --data datasets/cityscapes            all visible GPUs, one process each
torchrun --standalone --nproc-per-node 2 -m -- training train --model unet --data DIR    joins its launcher
python -m training train --model ddunet --data synthetic --width 16 --epochs 2 --size 128 256        CPU toy
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from core.errors import InputError
from training.config import TrainConfig, load_config, settle
from training.data import check, open_training_data
from training.distributed import PREPARED, join, launch, processes_to_launch
from training.loading import EpochBatches
from training.paths import require_folder
from training.runner import Run, new_network

GROUPS = {
    "what to train": ("model", "width", "init"),
    "data": ("data", "size", "augment", "scale", "workers"),
    "schedule": ("epochs", "batch_size", "learning_rate", "schedule", "seed"),
    "where things go": ("run", "resume", "keep"),
    "devices": ("gpus",),
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Flags of `train`, from the fields of the configuration; types and limits are checked by it, not here."""
    parser = commands.add_parser("train", help="train a model", description=__doc__, epilog=(
        "Every flag can also be given as an environment variable (TRAIN_BATCH_SIZE=4) or in a --config file;"
        " a flag goes before the environment, and that before the file."
    ), formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.set_defaults(run_command=run)
    for title, names in GROUPS.items():
        group = parser.add_argument_group(title)
        for name in names:
            field = TrainConfig.model_fields[name]
            flag, text = "--" + name.replace("_", "-"), field.description or ""
            if name == "resume":
                group.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=text)
                continue
            shown = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
            text += f" (default: {shown})" if shown is not None else ""
            pair = {"size": ("H", "W"), "scale": ("MIN", "MAX")}.get(name)
            many: dict[str, Any] = {"nargs": 2, "metavar": pair} if pair else {"metavar": name.upper()}
            group.add_argument(flag, default=argparse.SUPPRESS, help=text, **many)
    parser.add_argument("--config", type=Path, metavar="FILE", help="JSON object of settings, by the flags' names")


def run(options: argparse.Namespace, arguments: list[str]) -> int:
    """Check everything in this process, then train here or in one process for each GPU."""
    flags = {key: value for key, value in vars(options).items() if key in TrainConfig.model_fields}
    config = settle(load_config(flags, options.config), set(flags))
    processes = processes_to_launch(config.gpus)
    if processes > 1:
        prepare(config, ranks=processes)
        return launch(processes, arguments)
    with join(use_gpu=config.gpus != 0) as world:
        if world.main and PREPARED not in os.environ:
            prepare(config, world.ranks)
        world.barrier()
        Run(config, world).train()
    return 0


def prepare(config: TrainConfig, ranks: int) -> None:
    """Everything that can be wrong with the user's input, told before the first epoch. Raises InputError."""
    require_folder(config.run_folder, "--run")
    datasets = open_training_data(str(config.data))
    EpochBatches(len(datasets[0]), config.batch_size, config.seed, ranks=ranks)
    network = new_network(config, datasets[0])
    deepest = [-(-side // network.stride) for side in config.size]
    share = config.batch_size // ranks
    if deepest[0] * deepest[1] * share == 1:
        raise InputError(f"--size: {config.size[0]} {config.size[1]} and one sample a process leave one value for batch norm"
                         f" at the deepest level; use a --batch-size of {2 * ranks} or more, or a larger --size")  # fmt: skip
    check(*datasets)
