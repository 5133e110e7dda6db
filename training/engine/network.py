"""The network of a run: fresh or from a checkpoint, on its device, wrapped for several ranks or compiled."""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from core.backends.torch_cpu import load_state
from core.checkpoints.checkpoint import Architecture, find_checkpoint, read_checkpoint
from core.data.labels import LabelSpace
from core.errors import InputError
from core.models import Network, build_model
from core.models.r2unet import RecurrentResidualBlock
from training.config import TrainConfig
from training.distributed.context import World
from training.tracking.history import histories_of, read_rows
from training.tracking.run_dir import Past, RunFolder


def new_network(config: TrainConfig, labels: LabelSpace) -> Network:
    """The network with fresh weights from the seed, or with those of --init. Raises InputError."""
    torch.manual_seed(config.seed)
    network = build_model(str(config.model), len(labels), config.width)
    if config.init and not (config.resume and RunFolder(config.run_folder).can_resume):
        name, path = find_checkpoint(config.init)
        source = read_checkpoint(path, name)
        if source.card.architecture != Architecture(name=str(config.model), width=config.width):
            theirs = source.card.architecture
            raise InputError(f"--init: {path} is a {theirs.name} of width {theirs.width}, not a {config.model} of width"
                             f" {config.width}; train with --model {theirs.name} --width {theirs.width}")  # fmt: skip
        read_rows(*histories_of(path))  # which go into the run folder: raises where one is none
        load_state(network, source, new_head=source.card.labels.names != labels.names)
    for layer in network.modules():
        if isinstance(layer, RecurrentResidualBlock):
            layer.recompute = config.checkpoint_activations
    return network


def past_of(config: TrainConfig) -> Past:
    """The trainings that led to the checkpoint of --init."""
    if not config.init:
        return Past()
    name, path = find_checkpoint(config.init)
    return Past(read_checkpoint(path, name).card.legs, histories_of(path))


def place_network(network: Network, world: World) -> nn.Module:
    """The network on its device; batch norm is taken over all ranks where torch can (on GPUs)."""
    bare: nn.Module = network
    if world.ranks > 1 and world.device.type == "cuda":
        bare = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return bare.to(device=world.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def wrap(network: nn.Module, world: World, compiled: bool = False) -> nn.Module:
    """The network to call in training: itself, or synchronised over the ranks, or compiled."""
    if world.ranks > 1:
        device = [world.device] if world.device.type == "cuda" else None
        with warnings.catch_warnings():  # its successor `forward_sync_buffers` is not in every torch that will do
            warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
            network = DistributedDataParallel(network, device, broadcast_buffers=False, gradient_as_bucket_view=True)
    return torch.compile(network) if compiled else network  # type: ignore[return-value]


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether to run in mixed precision; `auto`: on devices with bf16 units, without which it is slower than float32."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # AVX512_BF16 or AMX; the questions have no public name, and not every torch knows both
    return any(getattr(torch.cpu, f"_is_{units}_supported", bool)() for units in ("avx512_bf16", "amx_tile"))
