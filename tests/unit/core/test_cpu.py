"""The cores that a quota of time leaves, as Linux tells of it in both versions of its control groups."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from core.runtime.cpu import quota

CASES = {
    "version 2, in a container": ("0::/", {"cpu.max": "200000 100000"}, 2),
    "version 2, half a core": ("0::/", {"cpu.max": "50000 100000"}, 0.5),
    "version 2, no limit": ("0::/", {"cpu.max": "max 100000"}, math.inf),
    "version 2, a limit around it": (
        "0::/a.slice/b",
        {"a.slice/b/cpu.max": "max 100000", "a.slice/cpu.max": "300000 100000"},
        3,
    ),
    "version 2, a path of outside": ("0::/docker/4711", {"cpu.max": "150000 100000"}, 1.5),
    "version 2, the machine's own": ("0::/", {}, math.inf),
    "version 1": (
        "4:memory:/x\n3:cpu,cpuacct:/x",
        {"cpu,cpuacct/x/cpu.cfs_quota_us": "400000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"},
        4,
    ),
    "version 1, mounted under another name": (
        "3:cpuacct,cpu:/",
        {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "50000"},
        2,
    ),
    "version 1, no limit": ("3:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
    "both": ("1:cpu:/\n0::/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
}


@pytest.mark.parametrize("case", CASES)
def test_the_quota_is_what_the_groups_say(case: str, tmp_path: Path) -> None:
    own, files, expected = CASES[case]
    (tmp_path / "own").write_text(own + "\n")
    for name, text in files.items():
        path = tmp_path / "cgroups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert quota(tmp_path / "cgroups", tmp_path / "own") == expected


def test_without_linux_there_is_none(tmp_path: Path) -> None:
    assert quota(tmp_path, tmp_path / "nothing") == math.inf
