"""`make soak`: kills by the dozen, and a save struck at every one of its system calls as the kernel sees them.

python -m tests.soak [TRIALS]      prints a line a trial
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.machine import machine
from tests.saved import MARK, look, prepare
from tests.training.kills import EPOCHS, ROOT, STEPS, Victim, differences, trial
from training.run_folder import RunFolder
from training.synthesize import write_scene

KINDS = [(1, "tree"), (2, "tree"), (2, "launcher"), (2, "rank"), (1, "term"), (2, "term")]
CALLS = "openat,write,fsync,close,rename,renameat,renameat2,link,linkat,unlink,unlinkat"


def kills(folder: Path, wanted: int) -> bool:
    """Kill runs until so many trials have redone work; whether all ended with the bits of an undisturbed run."""
    data = folder / "scenes"
    for split, count in (("train", 4 * STEPS), ("val", 5)):
        for index in range(count):
            write_scene(data, split, index, (32, 64), seed=0)
    whole = {}
    for processes in (1, 2):
        whole[processes] = Victim(data, folder / f"whole{processes}", processes)
        whole[processes].whole()
    counted: Counter[str] = Counter()
    good = True
    number = 0
    while sum(count for key, count in counted.items() if not key.endswith("term")) < wanted:
        processes, kind = KINDS[number % len(KINDS)]
        victim = Victim(data, folder / f"trial{number}", processes)
        redone = trial(victim, kind, random.Random(1000 + number))
        found = differences(victim.folder, whole[processes].folder)
        counts = redone > 0 or kind == "term"
        counted[f"{processes} {kind}"] += counts
        good = good and not found
        verdict = "the same bits" if not found else f"DIFFERENT: {found[:3]}"
        told = f"{redone:2d} of {EPOCHS * STEPS} steps redone" + ("" if counts else " (not counted)")
        print(f"{number:3d}  {processes} process(es)  {kind:8s}  {told}  {verdict}", flush=True)
        shutil.rmtree(victim.folder)
        number += 1
    print(f"counted: {dict(counted)}; {'all ended with the same bits' if good else 'NOT ALL ARE THE SAME'}")
    return good


def saves(folder: Path) -> bool:
    """Kill a save at each of its system calls, then fail each write and fsync; whether a restart always found it whole."""
    program, target, log = [sys.executable, "-m", "tests.saved"], folder / "run", folder / "calls"
    environment = {**os.environ, "PYTHONHASHSEED": "0"}  # the same calls in every run

    def save(*options: object) -> int:
        """A third epoch's save after two whole ones, under strace."""
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(two_epochs, target)
        command = [*map(str, ("strace", *options, *program, target))]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False).returncode

    two_epochs = folder / "two epochs"
    prepare(RunFolder(two_epochs))
    assert save("-o", log, "-e", f"trace={CALLS}") == 0
    calls = [line.split("(")[0] for line in log.read_text().splitlines()]
    first = next(number for number, line in enumerate(log.read_text().splitlines()) if MARK in line) + 1
    good = True
    for what, injected, struck in (
        ("killed before", "signal=KILL", CALLS.split(",")),
        ("out of space at", "error=ENOSPC", ("write", "fsync")),
        ("broken (EIO) at", "error=EIO", ("write", "fsync")),
    ):
        found: Counter[str] = Counter()
        for number, name in enumerate(calls):
            if number < first or name not in struck:
                continue
            nth = calls[: number + 1].count(name)  # strace counts each system call for itself
            assert save("-o", "/dev/null", "-e", f"inject={name}:{injected}:when={nth}") != 0, f"not met: {name} {nth}"
            found[look(RunFolder(target))] += 1
        good = good and set(found) <= {"old", "new", "new old"}
        print(f"a save {what} each of its {sum(found.values())} system calls; what a restart found:")
        for told, times in sorted(found.items()):
            print(f"  {times:3d} times: {told}", flush=True)
    return good


def main(trials: int = 50) -> int:
    print(f"{machine()}\n", flush=True)
    with tempfile.TemporaryDirectory() as name:
        good = [kills(Path(name), trials), saves(Path(name))]
        return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
