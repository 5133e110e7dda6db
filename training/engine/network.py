"""The network of a run: fresh or from a checkpoint, on its device, and wrapped for several ranks or compiled."""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from core.backends.torch_weights import load_weights
from core.checkpoints.checkpoint import Architecture, find_checkpoint, read_checkpoint
from core.data.labels import LabelSpace
from core.errors import InputError
from core.models import build_model
from core.models.blocks import SegmentationModel
from core.models.r2unet import RecurrentResidualBlock
from training.config import TrainConfig
from training.distributed.context import DistributedContext
from training.tracking.history import history_files, read_rows
from training.tracking.run_dir import Lineage, RunDir


def build_network(config: TrainConfig, labels: LabelSpace) -> SegmentationModel:
    """Build the network with random weights from the seed, or with those of the checkpoint of `--init`.

    If the checkpoint has other classes, the head is initialized from the seed. A run that will be resumed does not read it.

    Raises:
        InputError: The checkpoint is missing, damaged or of another architecture.
    """
    torch.manual_seed(config.seed)
    network = build_model(str(config.model), len(labels), config.width)
    if config.init and not (config.resume and RunDir(config.run_dir).can_resume):
        name, path = find_checkpoint(config.init)
        checkpoint = read_checkpoint(path, name)
        architecture = checkpoint.metadata.architecture
        if architecture != Architecture(name=str(config.model), width=config.width):
            raise InputError(
                f"--init: {path} is a {architecture.name} of width {architecture.width}, not a {config.model} of width"
                f" {config.width}; train with --model {architecture.name} --width {architecture.width}"
            )
        read_rows(*history_files(path))  # The run inherits them: raises InputError now if one is damaged.
        load_weights(network, checkpoint, reset_head=checkpoint.metadata.labels.names != labels.names)
    for layer in network.modules():
        if isinstance(layer, RecurrentResidualBlock):
            layer.checkpoint_activations = config.checkpoint_activations
    return network


def lineage(config: TrainConfig) -> Lineage:
    """Return the training stages and histories that led to the checkpoint of `--init`; empty without one."""
    if not config.init:
        return Lineage()
    name, path = find_checkpoint(config.init)
    return Lineage(read_checkpoint(path, name).metadata.stages, history_files(path))


def to_device(network: SegmentationModel, context: DistributedContext) -> nn.Module:
    """Move a network to the device in channels-last format; on several GPUs, convert its batch norm to SyncBatchNorm."""
    converted: nn.Module = network
    if context.world_size > 1 and context.device.type == "cuda":
        converted = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return converted.to(device=context.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def wrap_ddp(network: nn.Module, context: DistributedContext, compiled: bool = False) -> nn.Module:
    """Return the module to call in training: the network, in a DDP wrapper if there are several ranks, compiled on request."""
    if context.world_size > 1:
        device_ids = [context.device] if context.device.type == "cuda" else None
        with warnings.catch_warnings():  # The successor, `forward_sync_buffers`, is not in every supported torch version.
            warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
            network = DistributedDataParallel(network, device_ids, broadcast_buffers=False, gradient_as_bucket_view=True)
    return torch.compile(network) if compiled else network  # type: ignore[return-value]


def use_bf16(precision: str, device: torch.device) -> bool:
    """Return whether to train in bf16 mixed precision; `auto` does on devices with bf16 units, others are slower with it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # AVX512_BF16 or AMX. The queries are private, and not every torch version has both.
    return any(getattr(torch.cpu, f"_is_{units}_supported", bool)() for units in ("avx512_bf16", "amx_tile"))
