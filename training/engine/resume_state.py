"""The content of a resume file: every tensor that a training step changes, and the progress of the run as metadata."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from core.backends.torch_weights import state_dict_numpy
from core.checkpoints.legacy import upgrade_resume, upgrade_tensors
from core.checkpoints.safetensors_io import Metadata, Tensors
from core.errors import TrainingError
from training.distributed.context import DistributedContext
from training.engine.ema import ModelEma
from training.engine.step import EpochAccumulators

KIND, SCHEMA = "resume", 2


@dataclass
class TrainingProgress:
    """The position and the past of a run; the metadata of a resume file has these keys."""

    epoch: int = 0  # finished epochs, each with its validation and checkpoint
    step: int = 0  # finished steps of the next epoch
    best: float | None = None  # best validation score so far
    since_best: int = 0  # epochs since the best score
    environment: dict[str, Any] = field(default_factory=dict)  # see `reproducibility.environment`
    seconds: float = 0.0  # duration of the finished steps of the next epoch
    bitwise_reproducible: bool = True  # whether the weights equal those of a run that was never interrupted


@dataclass
class TrainState:
    """Everything that a training step changes."""

    network: nn.Module
    optimizer: Optimizer
    ema: ModelEma | None
    accumulators: EpochAccumulators


def pack(progress: TrainingProgress, state: TrainState, context: DistributedContext) -> tuple[Metadata, Tensors]:
    """Return metadata and tensors of a resume file. A collective: all ranks call it, the main one writes the file."""
    tensors: Tensors = {}
    if context.is_main:
        tensors.update(_model_tensors(state))
    confusion = state.accumulators.confusion.cpu().numpy().copy()
    context.all_reduce_sum(confusion)
    tensors["sums.counts"] = confusion
    # Floating-point sums are kept per rank, in their order of addition, so that a resumed run gets the same bits.
    tensors["sums.loss"] = np.stack(context.all_gather(state.accumulators.loss_sums.cpu().numpy()))
    tensors["generators"] = np.stack(context.all_gather(torch.get_rng_state().numpy()))
    if context.device.type == "cuda":
        tensors["generators.cuda"] = np.stack(context.all_gather(torch.cuda.get_rng_state().numpy()))
    return {"kind": KIND, "schema_version": SCHEMA, **asdict(progress)}, tensors


def _model_tensors(state: TrainState) -> Tensors:
    tensors = {f"network.{name}": array for name, array in state_dict_numpy(state.network).items()}
    if state.ema is not None:
        tensors.update({f"average.{name}": array for name, array in state_dict_numpy(state.ema.network).items()})
        tensors["updates"] = np.array(state.ema.updates)
    # Named by the index in `network.parameters()`, so that the names do not depend on the optimizer's parameter groups.
    for index, parameter in enumerate(state.network.parameters()):
        for key, value in state.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{index}.{key}"] = value.detach().cpu().numpy()
    return tensors


def unpack(document: Metadata, tensors: Tensors, state: TrainState, context: DistributedContext) -> TrainingProgress:
    """Restore `state` from a resume file on this rank and return the progress.

    The world size may differ from that of the ranks that wrote the file; per-rank sums then go to the main rank, and the
    random generators are not restored.

    Raises:
        TrainingError: The file is intact, but belongs to another kind of run or program version.
    """
    try:
        tensors, document = upgrade_tensors(document, tensors), upgrade_resume(document)
        if (document["kind"], document["schema_version"]) != (KIND, SCHEMA):
            raise ValueError(f"kind {document['kind']}, schema {document['schema_version']}; expected {KIND}, {SCHEMA}")
        return _unpack(document, tensors, state, context)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise TrainingError(
            f"the newest resume file does not fit this run or program version ({reason}); start another --run from the newest"
            " checkpoint with --init"
        ) from error


def _unpack(document: Metadata, tensors: Tensors, state: TrainState, context: DistributedContext) -> TrainingProgress:
    state.network.load_state_dict(_with_prefix(tensors, "network."))
    if state.ema is not None:
        state.ema.network.load_state_dict(_with_prefix(tensors, "average."))
        state.ema.updates = int(tensors["updates"])
    _restore_optimizer(state.optimizer, state.network, _with_prefix(tensors, "optimizer."))

    values = {"seconds": 0.0, **document}  # files of early versions have no `seconds`
    progress = TrainingProgress(**{key: values[key] for key in vars(TrainingProgress())})
    same_ranks = progress.environment["world_size"] == context.world_size
    loss_sums = tensors["sums.loss"][context.rank] if same_ranks else tensors["sums.loss"].sum(0) * context.is_main
    state.accumulators.loss_sums.copy_(torch.from_numpy(np.array(loss_sums)))
    state.accumulators.confusion.copy_(torch.from_numpy(tensors["sums.counts"] * context.is_main))
    if same_ranks:
        torch.set_rng_state(_to_tensor(tensors["generators"][context.rank]))
        if context.device.type == "cuda" and "generators.cuda" in tensors:
            torch.cuda.set_rng_state(_to_tensor(tensors["generators.cuda"][context.rank]))
    return progress


def _restore_optimizer(optimizer: Optimizer, network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load the state of each parameter, named `INDEX.KEY` with the index in `network.parameters()`."""
    parameters = list(network.parameters())
    # `load_state_dict` numbers the parameters in the order of the optimizer's groups.
    grouped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    group_index = {parameter: index for index, parameter in enumerate(grouped)}
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".")
        parameter = parameters[int(index)]
        if value.ndim:  # The fused kernel walks the memory linearly: moments need the memory format of their parameter.
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        states.setdefault(group_index[parameter], {})[key] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


def _with_prefix(tensors: Tensors, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): _to_tensor(array) for name, array in tensors.items() if name.startswith(prefix)}


def _to_tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array))
