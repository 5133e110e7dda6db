"""What a run goes on from: everything that a step changes as tensors, and the progress as a document."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from core.backends.torch_cpu import to_tensors
from core.checkpoints.safetensors_io import Document, Tensors
from core.errors import RunError
from training.distributed.context import World
from training.engine.ema import Average
from training.engine.step import Sums

KIND, SCHEMA = "resume", 1


@dataclass
class Progress:
    """Where a run is, and what it knows of its past."""

    epoch: int = 0  # whole epochs, evaluation and all
    step: int = 0  # steps of the next epoch
    best: float | None = None  # the best score so far
    since_best: int = 0  # epochs since then
    on: dict[str, Any] = field(default_factory=dict)  # what it ran on: ranks, threads, ...
    seconds: float = 0.0  # that the steps of the next epoch took
    exact: bool = True  # whether its bits are those of an undisturbed run


@dataclass
class TrainState:
    """Everything that a step changes."""

    network: nn.Module
    optimizer: Optimizer
    average: Average | None
    sums: Sums


def pack(progress: Progress, state: TrainState, world: World) -> tuple[Document, Tensors]:
    """A resume file's content; every rank takes part, the main one writes it."""
    tensors: Tensors = {}
    if world.main:
        tensors.update(_weights(state))
    counts = state.sums.counts.cpu().numpy().copy()
    world.add(counts)
    tensors["sums.counts"] = counts
    # sums of floats in the order in which each rank made them, so that going on gives the same last bits
    tensors["sums.loss"] = np.stack(world.gather(state.sums.loss.cpu().numpy()))
    tensors["generators"] = np.stack(world.gather(torch.get_rng_state().numpy()))
    if world.device.type == "cuda":
        tensors["generators.cuda"] = np.stack(world.gather(torch.cuda.get_rng_state().numpy()))
    return {"kind": KIND, "schema_version": SCHEMA, **asdict(progress)}, tensors


def _weights(state: TrainState) -> Tensors:
    tensors = {f"network.{name}": array for name, array in to_tensors(state.network).items()}
    if state.average is not None:
        tensors.update({f"average.{name}": array for name, array in to_tensors(state.average.network).items()})
        tensors["updates"] = np.array(state.average.updates)
    for index, slot in state.optimizer.state_dict()["state"].items():
        tensors.update({f"optimizer.{index}.{key}": value.detach().cpu().numpy() for key, value in slot.items()})
    return tensors


def unpack(document: Document, tensors: Tensors, state: TrainState, world: World) -> Progress:
    """Put a resume file back into place on this rank.

    Another number of ranks than the one that wrote it is allowed: what belonged to one rank then goes to the first.
    Raises RunError where the file is whole and yet not one of this run and program.
    """
    try:
        if (document["kind"], document["schema_version"]) != (KIND, SCHEMA):
            raise ValueError(f"kind {document['kind']}, schema {document['schema_version']}; expected {KIND}, {SCHEMA}")
        return _unpack(document, tensors, state, world)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise RunError(f"a resume file that this program can't go on from ({reason}); start again with another --run, from"
                       " its newest checkpoint with --init") from error  # fmt: skip


def _unpack(document: Document, tensors: Tensors, state: TrainState, world: World) -> Progress:
    state.network.load_state_dict(_named(tensors, "network."))
    if state.average is not None:
        state.average.network.load_state_dict(_named(tensors, "average."))
        state.average.updates = int(tensors["updates"])
    slots: dict[int, dict[str, Any]] = {}
    weights = list(state.network.parameters())
    for name, value in _named(tensors, "optimizer.").items():
        index, key = name.split(".")
        # a fused step walks the memory: what goes with a channels-last weight must lie as it does
        like = torch.empty_like(weights[int(index)], dtype=value.dtype) if value.ndim else None
        slots.setdefault(int(index), {})[key] = value if like is None else like.copy_(value)
    state.optimizer.load_state_dict({"state": slots, "param_groups": state.optimizer.state_dict()["param_groups"]})
    told = {"seconds": 0.0, **document}  # which an older program did not save
    progress = Progress(**{key: told[key] for key in vars(Progress())})
    same = progress.on["ranks"] == world.ranks
    loss = tensors["sums.loss"][world.rank] if same else tensors["sums.loss"].sum(0) * world.main
    state.sums.loss.copy_(torch.from_numpy(np.array(loss)))
    state.sums.counts.copy_(torch.from_numpy(tensors["sums.counts"] * world.main))
    if same:
        torch.set_rng_state(_tensor(tensors["generators"][world.rank]))
        if world.device.type == "cuda" and "generators.cuda" in tensors:
            torch.cuda.set_rng_state(_tensor(tensors["generators.cuda"][world.rank]))
    return progress


def _named(tensors: Tensors, prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): _tensor(array) for name, array in tensors.items() if name.startswith(prefix)}


def _tensor(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(array))
