"""The number of CPUs that this process may use, which can be fewer than the computer has."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path


def cgroup_cpu_quota(cgroup_root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float:
    """Return the CPU quota of this process in CPUs (`docker run --cpus 2`, a Kubernetes limit); infinity without one.

    If more threads than that are busy, the kernel suspends all of them until the next period of 100 ms.

    Args:
        cgroup_root: Mount point of the cgroup file system.
        membership: File that lists the cgroups of the process.
    """
    try:
        lines = membership.read_text(errors="replace").splitlines()
    except OSError:  # not Linux
        return math.inf
    return min((quota for line in lines for quota in _quotas(cgroup_root, line)), default=math.inf)


def _quotas(cgroup_root: Path, line: str) -> Iterator[float]:
    """Yield the quotas, in CPUs, of the cgroup in a line of /proc/self/cgroup and of its parents.

    The line is ID:CONTROLLERS:PATH; cgroup v2 leaves CONTROLLERS empty. A parent's quota limits its children too.
    In a container PATH can be one that exists only on the host: missing directories are skipped.
    """
    _, _, rest = line.partition(":")
    controllers, _, path = rest.partition(":")
    if controllers and "cpu" not in controllers.split(","):
        return
    root = cgroup_root / controllers if (cgroup_root / controllers).is_dir() else cgroup_root / "cpu"
    group = Path(path.lstrip("/"))
    for directory in (root / group, *(root / parent for parent in group.parents)):
        try:
            if controllers:
                quota, period = ((directory / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            else:
                quota, period = (directory / "cpu.max").read_text().split()
            if float(quota) > 0:  # no limit is -1 in cgroup v1, and "max" (a ValueError) in v2
                yield float(quota) / float(period)
        except (OSError, ValueError):
            continue


def available_cpus() -> int:
    """Return the number of CPUs that the affinity mask and the cgroup quota leave to this process."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return math.ceil(min(cgroup_cpu_quota(), affinity))


NUM_CPUS = available_cpus()
# Threads for one network on a CPU: with networks of this size, more threads lose more time to synchronization than they gain.
INFERENCE_THREADS = min(8, NUM_CPUS)
