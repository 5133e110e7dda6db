"""The `train` command: an evaluation and a checkpoint after every epoch; stop it at any time, --resume goes on.

python -m training train --model ddunet --data datasets/cityscapes            all visible GPUs, one process each
torchrun --standalone --nproc-per-node 2 -m -- training train --model unet --data DIR    joins its launcher
python -m training train --model ddunet --data synthetic --width 16 --epochs 2 --size 128 256        CPU toy
"""

from __future__ import annotations

import argparse
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import torch
from pydantic import BaseModel

from core.data.datasets import listing
from core.errors import InputError
from core.models import MODELS
from core.runtime.cpu import CORES
from core.runtime.malloc import keep_freed_memory
from training.config import TrainConfig, load_config, settle
from training.data.loader import EpochBatches
from training.data.training_data import Survey
from training.distributed.context import World, join, machine, restarts, several_machines
from training.distributed.launcher import STOPPED, launch, processes_to_launch, read_orders, stopped_before
from training.distributed.signals import stop_wish, terminable
from training.engine.network import new_network
from training.engine.trainer import Run, make_data, make_preprocess, own_job, writer
from training.output_paths import require_folder
from training.tracking.run_dir import RunFolder

GROUPS = {
    "what to train": ("model", "width", "init", "checkpoint_activations"),
    "data": ("data", "size", "augment", "scale", "aspect", "resize", "jitter", "workers", "cache", "skip_bad"),
    "schedule": ("epochs", "batch_size", "accumulate", "learning_rate", "schedule", "warmup", "patience", "seed"),
    "what is minimised": ("loss", "class_weights", "weight_decay", "clip", "ema"),
    "where things go": ("run", "resume", "keep", "export", "checkpoint_every"),
    "devices": ("gpus", "precision", "compile", "max_restarts", "timeout"),
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Flags of `train`, from the fields of the configuration; types and limits are checked by it, not here."""
    usage = "python -m training train --model MODEL --data DIR [--run runs/NAME] [--resume] [flags]"
    parser = commands.add_parser("train", help="train a model", usage=usage, description=__doc__, epilog=(
        "Every flag can also be given as an environment variable (TRAIN_BATCH_SIZE=4) or in a --config file;"
        " a flag goes before the environment, and that before the file."
    ), formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.set_defaults(run_command=run)
    for title, names in GROUPS.items():
        group = parser.add_argument_group(title)
        for name in names:
            field = TrainConfig.model_fields[name]
            flag, text = "--" + name.replace("_", "-"), field.description or ""
            if field.annotation is bool:
                group.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=text)
                continue
            shown = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
            text += f" (default: {shown})" if shown is not None else ""
            kinds = (field.annotation, *get_args(field.annotation))  # the second of an optional one
            choices = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())
            pair = {"size": ("H", "W"), "scale": ("MIN", "MAX"), "aspect": ("MIN", "MAX")}.get(name)
            many: dict[str, Any] = {"nargs": 2, "metavar": pair} if pair else {"metavar": "|".join(choices) or name.upper()}
            group.add_argument(flag, default=argparse.SUPPRESS, help=text, **many)
    parser.add_argument("--config", type=Path, metavar="FILE", help="JSON object of settings, by the flags' names")


def run(options: argparse.Namespace, arguments: list[str]) -> int:
    """Check everything in this process, then train here or in one process for each GPU."""
    try:
        with terminable():  # until the training itself listens to the signals
            return _run(options, arguments)
    except KeyboardInterrupt:
        if read_orders() is not None:
            return STOPPED  # and the launcher stops the others, which may be further
        print(stopped_before(restarts()), flush=True)
        return 0


def _run(options: argparse.Namespace, arguments: list[str]) -> int:
    again = restarts() > 0  # a launcher starts the same command anew
    first = os.environ.get("RANK", "0") == "0"
    orders = read_orders()
    if orders is not None:  # this is one of the processes: its parent has checked everything
        settled = Orders.model_validate_json(orders)
        return train(settled.config.model_copy(update={"resume": settled.config.resume or again}), settled.survey)
    flags = {key: value for key, value in vars(options).items() if key in TrainConfig.model_fields}
    config = load_config(flags, options.config)
    if (again and not first) or own_job(RunFolder(config.run_folder)):
        # it is this job's own run that stands there: a machine may have joined it, or left; else the first process tells
        config, flags["resume"] = config.model_copy(update={"resume": True}), True
    config = settle(config, set(flags))
    processes = processes_to_launch(config.gpus)
    if processes > 1:
        settled = Orders(config=config, survey=prepare(config, processes))
        return launch(processes, arguments, settled.model_dump_json(), config.max_restarts)
    return train(config)


class Orders(BaseModel):
    """What the parent of several processes has settled for them."""

    config: TrainConfig
    survey: Survey


def train(config: TrainConfig, survey: Survey | None = None) -> int:
    """Train as one process, or as one of those that a launcher started."""
    found: list[Survey] = []

    def look() -> None:
        leads = "0" in (os.environ.get("LOCAL_RANK", "0"), os.environ.get("RANK", "0"))
        if not survey and leads:
            found.append(prepare(config, int(os.environ.get("WORLD_SIZE", "1")), first=os.environ.get("RANK", "0") == "0"))

    with join(config.gpus != 0, config.timeout, look) as world:
        if world.device.type == "cpu":
            keep_freed_memory()
            # said once before the first step: a validation says it too, and what MKL then does has other last bits
            torch.set_num_threads(min(torch.get_num_threads(), CORES))
        survey = survey or agree(world, found[0] if found else None)
        with stop_wish(tell=world.main and read_orders() is None) as wish:
            Run(config, survey, world, wish).train()
    return 0


def agree(world: World, survey: Survey | None) -> Survey:
    """What the first process of this machine found, which may have a cache of its own; the same pictures on every machine.

    Raises InputError where they are not.
    """
    found = world.each((machine(), survey))
    own = survey or next((one for name, one in found if one and name == machine()), None)
    if not own:
        raise InputError(f"LOCAL_RANK: no process of {machine()} has 0, which would have looked through the data there")
    world.require_same(own.pictures, "--data: other pictures, or other ones that can't be read,")
    return own


def prepare(config: TrainConfig, ranks: int, first: bool = True) -> Survey:
    """Everything that can be wrong with the user's input, told before the first epoch; what decoding the data told.

    Every machine does so for itself, and `first` is the one that will write the run. Raises InputError.
    """
    require_folder(config.run_folder, "--run")
    preprocess = make_preprocess(config, MODELS[str(config.model)].stride)
    data = make_data(config, preprocess)
    network = new_network(config, data.train.labels)
    deepest = [-(-side // network.stride) for side in config.size]
    share = config.batch_size // ranks
    if share and share < config.accumulate:
        raise InputError(f"--accumulate: {config.accumulate} parts of {share} samples a process; use {share} or fewer")
    if deepest[0] * deepest[1] * (share // config.accumulate) == 1:
        raise InputError(f"--size: {config.size[0]} {config.size[1]} and one sample a process leave one value for batch norm"
                         f" at the deepest level; use a --batch-size of {2 * ranks} or more, or a larger --size")  # fmt: skip
    if not data.alone:
        EpochBatches(len(data.train), config.batch_size, config.seed, ranks=ranks)
    with writer(config) if first and config.run_folder.is_dir() else nullcontext():
        survey = data.survey(config.skip_bad, config.timeout, tidy=not several_machines())
    EpochBatches(len(data.train) - len(survey.train.bad), config.batch_size, config.seed, ranks=ranks)
    if survey.skipped:
        print(listing(f"--skip-bad: training without {len(survey.skipped)} files", survey.skipped), flush=True)
    return survey
