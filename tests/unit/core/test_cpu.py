"""Tests of core.runtime.cpu: CPU quotas from the files of both cgroup versions."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from core.runtime.cpu import cgroup_cpu_quota

# Each case: lines of /proc/self/cgroup, files below /sys/fs/cgroup, expected quota in CPUs.
CASES = {
    "v2, in a container": ("0::/", {"cpu.max": "200000 100000"}, 2),
    "v2, half a CPU": ("0::/", {"cpu.max": "50000 100000"}, 0.5),
    "v2, no limit": ("0::/", {"cpu.max": "max 100000"}, math.inf),
    "v2, limit of a parent": (
        "0::/a.slice/b",
        {"a.slice/b/cpu.max": "max 100000", "a.slice/cpu.max": "300000 100000"},
        3,
    ),
    "v2, path of the host": ("0::/docker/4711", {"cpu.max": "150000 100000"}, 1.5),
    "v2, root cgroup": ("0::/", {}, math.inf),
    "v1": (
        "4:memory:/x\n3:cpu,cpuacct:/x",
        {"cpu,cpuacct/x/cpu.cfs_quota_us": "400000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"},
        4,
    ),
    "v1, mounted under another name": (
        "3:cpuacct,cpu:/",
        {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "50000"},
        2,
    ),
    "v1, no limit": ("3:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
    "both versions": ("1:cpu:/\n0::/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
}


@pytest.mark.parametrize(("membership", "files", "expected"), CASES.values(), ids=CASES.keys())
def test_quota_is_smallest_of_cgroup_and_parents(
    membership: str, files: dict[str, str], expected: float, tmp_path: Path
) -> None:
    (tmp_path / "membership").write_text(membership + "\n")
    for name, text in files.items():
        path = tmp_path / "cgroups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert cgroup_cpu_quota(tmp_path / "cgroups", tmp_path / "membership") == expected


def test_quota_without_cgroups_is_infinite(tmp_path: Path) -> None:
    assert cgroup_cpu_quota(tmp_path, tmp_path / "missing") == math.inf
