"""`make soak`: kills by the dozen, and a save killed at every one of its system calls as the kernel sees them.

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

from tests.saved import MARK
from tests.training.kills import EPOCHS, ROOT, STEPS, Victim, differences, trial
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
    """Kill a save at each of its system calls with strace, and look at what a restart finds; whether all was whole."""
    program, target, log = [sys.executable, "-m", "tests.saved"], folder / "run", folder / "calls"
    environment = {**os.environ, "PYTHONHASHSEED": "0"}  # the same calls in every run

    def run(*command: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    two_epochs = folder / "two epochs"
    assert run(*program, "prepare", two_epochs).returncode == 0

    def prepare() -> None:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(two_epochs, target)

    prepare()
    run("strace", "-o", log, "-e", f"trace={CALLS}", *program, "save", target)
    calls = log.read_text().splitlines()
    first = next(number for number, line in enumerate(calls) if MARK in line) + 1
    found: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for number, line in enumerate(calls):
        name = line.split("(")[0]
        seen[name] += 1  # strace counts each system call for itself
        if number < first or not name.isalnum():
            continue
        prepare()
        inject = f"inject={name}:signal=KILL:when={seen[name]}"
        killed = run("strace", "-o", "/dev/null", "-e", inject, *program, "save", target)
        look = run(*program, "look", target)
        found[look.stdout.strip() if look.returncode == 0 else f"NOT WHOLE at {line}: {look.stderr[-200:]}"] += 1
        assert killed.returncode != 0, f"not met: {line}"
    print(f"a save killed at each of its {sum(found.values())} system calls; what a restart found:")
    for told, times in sorted(found.items()):
        print(f"  {times:3d} times: {told}")
    return all(set(told.split()) <= {"old", "new"} for told in found)


def main(trials: int = 50) -> int:
    with tempfile.TemporaryDirectory() as name:
        good = [kills(Path(name), trials), saves(Path(name))]
        return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
