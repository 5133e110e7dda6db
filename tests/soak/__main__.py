"""`make soak`: kills by the dozen, a save struck at every one of its system calls, the service's bad days.

python -m tests.soak [PART...]      kills, saves, service; prints a line a trial
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

from tests.conftest import make_checkpoint
from tests.support.crash_save import MARK, look, prepare
from tests.support.environment_info import machine
from tests.support.image_fuzzer import main as mutations
from tests.support.kill_resume import EPOCHS, ROOT, STEPS, Victim, differences, trial
from tests.support.resilience import (
    IN_FLIGHT,
    asked_for_four_times_what_it_can,
    killed_while_it_evaluates,
    stopped_with_requests_in_flight,
)
from training.commands.synthesize import write_scene
from training.tracking.run_dir import RunFolder

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
    program, target, log = [sys.executable, "-m", "tests.support.crash_save"], folder / "run", folder / "calls"
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


def bad_days(folder: Path) -> bool:
    """Stops, kills and crowds of the service, and mutated pictures; whether all went as promised."""
    checkpoint = make_checkpoint(folder / "m.safetensors", "unet", 8, size=(128, 128))
    data = folder / "val scenes"
    for index in range(60):
        write_scene(data, "val", index, (64, 128), seed=0)
    wrong = [told for seed in range(20) for told in stopped_with_requests_in_flight(checkpoint, folder / f"stop{seed}", seed)]
    print(f"20 SIGTERMs with {IN_FLIGHT} requests in flight: {wrong or 'none of the accepted lost'}", flush=True)
    torn = killed_while_it_evaluates(checkpoint, data, folder / "killed", 10)
    print(f"10 SIGKILLs during evaluations: {torn or 'the list is right, no file torn'}", flush=True)
    good = not wrong and not torn
    for silent in (0, 200):
        crowd = asked_for_four_times_what_it_can(checkpoint, folder / f"crowd{silent}", 60, silent, SEGMENT_QUEUE=16)
        memory = f"{crowd.memory[0] / 1e6:.0f} to {max(crowd.memory) / 1e6:.0f} MB"
        print(
            f"four times what it can, for 60 s, beside {silent} silent sockets: {dict(crowd.replies)},"
            f" {crowd.served:.0f} masks a second; /healthz p99 {1000 * crowd.slowest_health:.0f} ms; memory {memory}",
            flush=True,
        )
        good = good and set(crowd.replies) <= {"200", "503 overloaded"} and crowd.slowest_health < 1
        good = good and max(crowd.memory) < 1.5 * crowd.memory[len(crowd.memory) // 6]
    return mutations(100_000, 1) == 0 and good


PARTS = {"kills": lambda folder: kills(folder, 50), "saves": saves, "service": bad_days}


def main(*parts: str) -> int:
    print(f"{machine()}\n", flush=True)
    with tempfile.TemporaryDirectory() as name:
        good = [PARTS[part](Path(name)) for part in parts or PARTS]
        return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
