"""One process or many: the ranks of a run, what they add up and what they agree on."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from core.errors import InputError
from core.evaluation.report import EvaluationCounts
from training import PARENT
from training.distributed.rendezvous import Meeting

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
TIMEOUT_S = 1800.0
LAUNCHER = "TRAINING_LAUNCHER"  # process number of the launcher
Value = TypeVar("Value")


@dataclass(frozen=True)
class World:
    """This process among all; rank 0 of 1 is the default, so that there is one code path."""

    rank: int = 0
    ranks: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 -- immutable
    timeout_s: float = TIMEOUT_S  # of everything that one process waits for
    meeting: Meeting | None = None  # with the others, where there are some

    @property
    def main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def add(self, array: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> None:
        """Sum an array over all ranks, in place; integers exactly."""
        if self.ranks > 1:
            tensor = torch.from_numpy(np.asarray(array).reshape(-1))
            dist.all_reduce(tensor)
            array[...] = tensor.numpy().reshape(array.shape)

    def add_tally(self, tally: EvaluationCounts) -> None:
        """Make every rank's share of an evaluation the whole of it."""
        for array in (tally.confusion, tally.per_image, tally.milliseconds):
            self.add(array)
        tally.seconds = float(max(self.gather(np.array([tally.seconds])))[0])  # it took as long as its slowest part

    def any(self, wish: bool) -> bool:
        """Whether any rank says yes; all get the same answer. Between the hosts: no device has to wait."""
        if self.ranks == 1:
            return wish
        answer = torch.tensor(int(wish))
        dist.all_reduce(answer, dist.ReduceOp.MAX)
        return bool(answer)

    def share(self, value: Value | None) -> Value:
        """Rank 0's value, on every rank."""
        box: list[Any] = [value]
        if self.ranks > 1:
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]  # type: ignore[no-any-return]

    def collect(self, value: Value) -> list[Value] | None:
        """Every rank's value, which JSON can hold, on rank 0, however long the others take, and None on them, who go on."""
        return self.meeting.collect(value) if self.meeting else [value]

    def each(self, value: Value) -> list[Value]:
        """Every rank's value, in the order of the ranks, on every rank."""
        values: list[Any] = [value] * self.ranks
        if self.ranks > 1:
            dist.all_gather_object(values, value)
        return values

    def require_same(self, value: Any, what: str) -> None:
        """Raise InputError where a process has another value than the first one has: `what` is other there."""
        (first, own), *others = self.each((machine(), value))
        for name, other in others:
            if other != own:
                raise InputError(f"{what} on {name} than on {first}; all processes need the same") from None

    def gather(self, array: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Every rank's array (of one shape and dtype), in the order of the ranks."""
        if self.ranks == 1:
            return [array]
        tensor = torch.from_numpy(array)
        gathered = [torch.empty_like(tensor) for _ in range(self.ranks)]
        dist.all_gather(gathered, tensor)
        return [part.numpy() for part in gathered]

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.any(False)

    def share_buffers(self, network: nn.Module) -> None:
        """Give every rank the batch norm statistics of rank 0.

        On a CPU each rank normalises its own share (torch has SyncBatchNorm for GPUs only), so its statistics drift.
        """
        if self.ranks > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, src=0)


@contextmanager
def join(use_gpu: bool = True, timeout_s: float = TIMEOUT_S, first: Callable[[], None] = lambda: None) -> Iterator[World]:
    """Join the processes that a launcher started (torchrun's environment), or be the only one.

    `first` is done before the others are met, who wait as long as it takes while this process lives. A collective that hangs
    for `timeout_s` seconds, or a process of which nothing is heard for so long, is an error.
    """
    gpu = use_gpu and torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if gpu else torch.device("cpu")
    if "RANK" not in os.environ:
        first()
        yield World(device=device, timeout_s=timeout_s)
        return
    if gpu:
        if local >= torch.cuda.device_count():
            raise InputError(
                f"process {local} of this machine has no GPU: {torch.cuda.device_count()} are visible; start fewer"
            )
        torch.cuda.set_device(device)
    timeout = timedelta(seconds=timeout_s)
    store, rank, ranks = next(rendezvous("env://", timeout=timeout))
    meeting = Meeting(store, rank, ranks, timeout_s)
    first()
    # a launcher keeps its store when it starts its processes again: in a part of its own an attempt meets none of the dead
    store = meeting.meet()
    store.set_timeout(timeout)
    require_same_device(store, rank, device.type)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", store=store, rank=rank, world_size=ranks, timeout=timeout)
    yield World(rank, ranks, device, timeout_s, meeting)
    # not where this rank failed: the others may be inside a collective, and leaving the group would wait for them
    dist.destroy_process_group()
    meeting.leave()


def require_same_device(store: Store, rank: int, kind: str) -> None:
    """Raise InputError where a process has a GPU and the first one has none, or the other way round: GPUs would wait for it."""
    if rank == 0:
        store.set("device", kind)
    first = store.get("device").decode()
    if kind != first:
        raise InputError(f"process {rank} on {machine()} runs on {kind!r} and the first one on {first!r}; all need the same:"
                         " torchrun --nproc-per-node=gpu does not start where there is no GPU") from None  # fmt: skip


def restarts() -> int:
    """How often a launcher has started its processes again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def machine() -> str:
    """What tells this machine from the others of a run: torchrun's number of it besides the name, which need not differ."""
    return " ".join(filter(None, (socket.gethostname(), os.environ.get("GROUP_RANK"))))


def several_machines() -> bool:
    """Whether the launcher's processes run on more than one machine."""
    return os.environ.get("LOCAL_WORLD_SIZE", "1") != os.environ.get("WORLD_SIZE", "1")


def die_with_launcher() -> None:
    """Ask Linux to kill this process when its launcher dies: SIGKILL of a launcher leaves its workers alive otherwise.

    Not under another parent: a shell from which somebody starts the ranks by hand may well be left.
    """
    if LAUNCHER not in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):  # not Linux
        return
    if os.getppid() != int(os.environ.get(LAUNCHER, PARENT)):  # it died before this process had asked
        os.kill(os.getpid(), signal.SIGKILL)
