"""The ranks of a run: one process by default, several if a launcher set torchrun's environment variables.

Imports no torch: a single process that serves an exported model needs none (see `process_group`).
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from core.errors import InputError
from training import LAUNCHED

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import nn

    from core.evaluation.evaluator import EvaluationCounts

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
TIMEOUT_S = 1800.0
LAUNCHER_PID_ENV = "TRAINING_LAUNCHER"  # environment variable with the launcher's process id
Value = TypeVar("Value")


@dataclass(frozen=True)
class DistributedContext:
    """Rank 0 of a run with one process, whose collectives are trivial; `ProcessGroup` overrides them for several ranks."""

    rank: int = 0
    world_size: int = 1
    device_name: str = "cpu"
    timeout_s: float = TIMEOUT_S  # for a collective, and for the heartbeat of a rank that is waited for

    @property
    def device(self) -> torch.device:
        """The device of this rank."""
        import torch

        return torch.device(self.device_name)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints messages."""
        return self.rank == 0

    def all_reduce_sum(self, array: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> None:
        """Sum an array over all ranks, in place; integer sums are exact."""

    def all_reduce_counts(self, counts: EvaluationCounts) -> None:
        """Sum the counts of all ranks, in place; the duration becomes that of the slowest rank."""

    def any_rank(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""
        return flag

    def broadcast(self, value: Value | None) -> Value:
        """Return rank 0's value on every rank."""
        return value  # type: ignore[return-value]

    def gather_to_main(self, value: Value) -> list[Value] | None:
        """Return the JSON-serializable values of all ranks on rank 0, and None on the others, which do not wait."""
        return [value]

    def all_gather_object(self, value: Value) -> list[Value]:
        """Return the values of all ranks, by rank, on every rank."""
        return [value]

    def all_gather(self, array: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Return the arrays of all ranks, by rank; they must have the same shape and dtype."""
        return [array]

    def broadcast_buffers(self, network: nn.Module) -> None:
        """Copy rank 0's batch norm statistics to every rank."""

    def barrier(self) -> None:
        """Wait for all ranks, `timeout_s` at most."""
        self.any_rank(False)

    def wait_for_all(self) -> None:
        """Wait for all ranks as long as their heartbeats continue: for ranks that finish long work at different times."""

    def require_same(self, value: Any, what: str) -> None:
        """Raise InputError if a rank's value differs from rank 0's; `what` begins the message ("--data: other files")."""
        (first, expected), *others = self.all_gather_object((node_name(), value))
        for name, other in others:
            if other != expected:
                raise InputError(f"{what} on {name} than on {first}; all processes need the same") from None


@contextmanager
def init_distributed(
    use_gpu: bool = True, timeout_s: float = TIMEOUT_S, before_rendezvous: Callable[[], None] = lambda: None
) -> Iterator[DistributedContext]:
    """Join the ranks that a launcher started (torchrun's environment variables), or be the only process.

    `before_rendezvous` runs before this rank waits for the others; they wait for it as long as its heartbeat continues. A
    collective, or a rank without heartbeat, that blocks for `timeout_s` seconds is an error.
    """
    from core.backends.loader import gpu_count

    use_gpu = use_gpu and gpu_count() > 0
    if "RANK" not in os.environ:
        before_rendezvous()
        yield DistributedContext(device_name="cuda:0" if use_gpu else "cpu", timeout_s=timeout_s)
        return
    from training.distributed.process_group import join_process_group, leave_process_group

    group = join_process_group(use_gpu, timeout_s, before_rendezvous)
    yield group
    leave_process_group(group)


def restart_count() -> int:
    """Return how often the launcher has restarted its processes."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def node_name() -> str:
    """Return a name of this node that is unique in the run: the host name, with torchrun's node number if there is one."""
    return " ".join(filter(None, (socket.gethostname(), os.environ.get("GROUP_RANK"))))


def is_multi_node() -> bool:
    """Return whether the run spans several nodes."""
    return os.environ.get("LOCAL_WORLD_SIZE", "1") != os.environ.get("WORLD_SIZE", "1")


def die_with_launcher() -> None:
    """Ask Linux to kill this process when its launcher dies: after SIGKILL of a launcher its workers would stay alive.

    Without effect under another parent: a shell from which a user starts the ranks by hand may exit before them.
    """
    if LAUNCHER_PID_ENV not in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):  # Not Linux.
        return
    if os.getppid() != int(os.environ.get(LAUNCHER_PID_ENV, LAUNCHED)):  # The launcher died before prctl was called.
        os.kill(os.getpid(), signal.SIGKILL)
