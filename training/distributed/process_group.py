"""Collectives of a run with several processes, on torch.distributed. Imported only if a launcher started this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous as torch_rendezvous

from core.errors import InputError
from core.evaluation.evaluator import EvaluationCounts
from training.distributed.context import DistributedContext, Value, node_name
from training.distributed.rendezvous import Rendezvous


@dataclass(frozen=True)
class ProcessGroup(DistributedContext):
    """One of several ranks. Collectives must be called by all of them, in the same order."""

    rendezvous: Rendezvous | None = None

    def all_reduce_sum(self, array: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> None:
        """Sum an array over all ranks, in place; integer sums are exact."""
        tensor = torch.from_numpy(np.asarray(array).reshape(-1))
        dist.all_reduce(tensor)
        array[...] = tensor.numpy().reshape(array.shape)

    def all_reduce_counts(self, counts: EvaluationCounts) -> None:
        """Sum the counts of all ranks, in place; the duration becomes that of the slowest rank."""
        for array in (counts.confusion, counts.per_image, counts.milliseconds):
            self.all_reduce_sum(array)
        counts.seconds = float(max(self.all_gather(np.array([counts.seconds])))[0])

    def any_rank(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank. It is reduced on the CPU, so no GPU is synchronized."""
        value = torch.tensor(int(flag))
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return bool(value)

    def broadcast(self, value: Value | None) -> Value:
        """Return rank 0's value on every rank."""
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]  # type: ignore[no-any-return]

    def gather_to_main(self, value: Value) -> list[Value] | None:
        """Return the JSON-serializable values of all ranks on rank 0, and None on the others, which do not wait."""
        return self.rendezvous.gather(value) if self.rendezvous else [value]

    def wait_for_all(self) -> None:
        """Wait for all ranks as long as their heartbeats continue: for ranks that finish long work at different times."""
        if self.rendezvous:
            self.rendezvous.wait_for_all()

    def all_gather_object(self, value: Value) -> list[Value]:
        """Return the values of all ranks, by rank, on every rank."""
        values: list[Any] = [value] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def all_gather(self, array: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Return the arrays of all ranks, by rank; they must have the same shape and dtype."""
        tensor = torch.from_numpy(array)
        gathered = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(gathered, tensor)
        return [part.numpy() for part in gathered]

    def broadcast_buffers(self, network: nn.Module) -> None:
        """Copy rank 0's batch norm statistics to every rank.

        On a CPU each rank normalizes its own shard (torch has SyncBatchNorm for GPUs only), so the statistics drift apart.
        """
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)


def join_process_group(use_gpu: bool, timeout_s: float, before_rendezvous: Callable[[], None]) -> ProcessGroup:
    """Join the ranks named by torchrun's environment variables; see `init_distributed`."""
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if use_gpu else torch.device("cpu")
    if use_gpu:
        if local_rank >= torch.cuda.device_count():
            raise InputError(
                f"LOCAL_RANK {local_rank} has no GPU: {torch.cuda.device_count()} are visible on {node_name()}; start one"
                " process for each GPU at most (torchrun --nproc-per-node=gpu)"
            )
        torch.cuda.set_device(device)
    timeout = timedelta(seconds=timeout_s)
    store, rank, world_size = next(torch_rendezvous("env://", timeout=timeout))
    rendezvous = Rendezvous(store, rank, world_size, timeout_s)
    before_rendezvous()
    # A launcher keeps its store over restarts. Each attempt uses a part of its own, without keys of dead processes.
    store = rendezvous.join()
    store.set_timeout(timeout)
    require_same_device(store, rank, device.type)
    backend = "cpu:gloo,cuda:nccl" if use_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    return ProcessGroup(rank, world_size, str(device), timeout_s, rendezvous)


def leave_process_group(group: ProcessGroup) -> None:
    """Destroy the process group; only after success: after a failure other ranks may be in a collective and never leave."""
    dist.destroy_process_group()
    if group.rendezvous:
        group.rendezvous.stop_heartbeat()


def require_same_device(store: Store, rank: int, device_type: str) -> None:
    """Raise InputError if this rank has a GPU and rank 0 has none, or the reverse: their collectives would hang."""
    if rank == 0:
        store.set("device", device_type)
    first = store.get("device").decode()
    if device_type != first:
        raise InputError(
            f"rank {rank} on {node_name()} runs on {device_type!r}, but rank 0 runs on {first!r}; all ranks need the same"
            " device type: torchrun --nproc-per-node=gpu does not start on a node without GPU"
        ) from None
