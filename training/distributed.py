"""One process or many: the ranks of a run, what they add up, and launching one process for each GPU."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import nn

from core.errors import InputError
from core.evaluation import Tally

PREPARED = "TRAINING_PREPARED"  # set for processes whose parent has checked the input already


@dataclass(frozen=True)
class World:
    """This process among all; rank 0 of 1 is the default, so that there is one code path."""

    rank: int = 0
    ranks: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 -- immutable

    @property
    def main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def add(self, array: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> None:
        """Sum an array over all ranks, in place; integers exactly."""
        if self.ranks > 1:
            tensor = torch.from_numpy(np.asarray(array).reshape(-1)).to(self.device)
            dist.all_reduce(tensor)
            array[...] = tensor.cpu().numpy().reshape(array.shape)

    def add_tally(self, tally: Tally) -> None:
        """Make every rank's share of an evaluation the whole of it."""
        for array in (tally.confusion, tally.per_image, tally.milliseconds):
            self.add(array)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.ranks > 1:
            dist.barrier()

    def share_buffers(self, network: nn.Module) -> None:
        """Give every rank the batch norm statistics of rank 0.

        On a CPU each rank normalises its own share (torch has SyncBatchNorm for GPUs only), so its statistics drift.
        """
        if self.ranks > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, src=0)


@contextmanager
def join(use_gpu: bool = True, timeout_s: float = 1800) -> Iterator[World]:
    """Join the processes that a launcher started (torchrun's environment), or be the only one."""
    gpu = use_gpu and torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if gpu else torch.device("cpu")
    if "RANK" not in os.environ:
        yield World(device=device)
        return
    if gpu:
        if local >= torch.cuda.device_count():
            raise InputError(
                f"process {local} of this machine has no GPU: {torch.cuda.device_count()} are visible; start fewer"
            )
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if gpu else "gloo", timeout=timedelta(seconds=timeout_s))
    yield World(dist.get_rank(), dist.get_world_size(), device)
    # not where this rank failed: the others may be inside a collective, and leaving the group would wait for them
    dist.destroy_process_group()


def processes_to_launch(gpus: int | None) -> int:
    """How many processes this command should start: one for each GPU, at most `gpus`; 1 where a launcher already did.

    Raises InputError where GPUs are asked for and there are none.
    """
    if "RANK" in os.environ:
        return 1
    visible = torch.cuda.device_count()
    if gpus and not visible:
        raise InputError(f"--gpus: {gpus} asked for, and this machine shows none; leave it out, or say 0 for the CPU")
    return max(1, visible if gpus is None else min(gpus, visible))


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run `python -m training ARGUMENTS` in so many processes through torch's elastic launcher; the exit code."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        max_restarts=0,
    )
    os.environ[PREPARED] = "1"  # the processes inherit it
    try:
        elastic_launch(config, sys.executable)("-m", "training", *arguments)
    except ChildFailedError as error:
        first = error.get_first_failure()[1]
        print(f"error: process {first.local_rank} ended with code {first.exitcode}", file=sys.stderr)
        return 2 if first.exitcode == 2 else 1
    finally:
        del os.environ[PREPARED]
    return 0
