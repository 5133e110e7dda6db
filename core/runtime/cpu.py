"""How many cores this process may use, which can be fewer than the machine has."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path


def quota(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Cores' worth of time that Linux gives this process (docker run --cpus 2, a limit in Kubernetes); infinite without one.

    More threads than that are stopped in the middle of their work, all of them, until the next tenth of a second.
    """
    try:
        lines = own.read_text(errors="replace").splitlines()
    except OSError:  # not Linux
        return math.inf
    return min((limit for line in lines for limit in _limits(cgroups, line)), default=math.inf)


def _limits(cgroups: Path, line: str) -> Iterator[float]:
    """What a line of /proc/self/cgroup leads to: ID:CONTROLLERS:PATH, without controllers in version 2.

    A group has no more than those around it; inside a container its path may be one that is seen outside only.
    """
    _, _, rest = line.partition(":")
    controllers, _, path = rest.partition(":")
    if controllers and "cpu" not in controllers.split(","):
        return
    root = cgroups / controllers if (cgroups / controllers).is_dir() else cgroups / "cpu"
    group = Path(path.lstrip("/"))
    for folder in (root / group, *(root / parent for parent in group.parents)):
        try:
            if controllers:
                used, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            else:
                used, period = (folder / "cpu.max").read_text().split()
            if float(used) > 0:  # else -1 in version 1, and `max`, which is no number, in version 2
                yield float(used) / float(period)
        except (OSError, ValueError):
            continue


def allowed() -> int:
    """The cores that this process may use: by what it is bound to, and by its quota of time."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return math.ceil(min(quota(), bound))


CORES = allowed()
# of a network on a CPU: more than this wait for each other more than they help in networks of this size
CPU_THREADS = min(8, CORES)
