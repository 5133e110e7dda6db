"""Kill training runs, inject a fault at every system call of a save, and stress the service.

python -m tests.soak [PART...]      parts: kills, saves, service; by default all of them (`make soak`)
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.support.checkpoints import make_checkpoint
from tests.support.crash_save import TRACE_MARKER, describe_recovery, write_two_epochs
from tests.support.environment_info import environment_info
from tests.support.image_fuzzer import main as run_image_fuzzer
from tests.support.kill_resume import kill_and_resume, run_differences
from tests.support.paths import ROOT
from tests.support.resilience import IN_FLIGHT, problems_after_kills, problems_after_sigterm, run_overload
from tests.support.training_process import EPOCHS, STEPS_PER_EPOCH, TrainingRun, write_scenes
from training.synthetic.dataset import write_scene
from training.tracking.run_dir import RunDir

KILL_TRIALS = [(1, "tree"), (2, "tree"), (2, "launcher"), (2, "rank"), (1, "term"), (2, "term")]  # world size, kind
TRACED_CALLS = "openat,write,fsync,close,rename,renameat,renameat2,link,linkat,unlink,unlinkat"


def kill_training(directory: Path, trials: int = 50) -> bool:
    """Kill and resume runs until `trials` of them have repeated steps; return whether all results are bitwise identical."""
    data = write_scenes(directory / "scenes")
    reference = {}
    for world_size in (1, 2):
        reference[world_size] = TrainingRun(data, directory / f"reference{world_size}", world_size)
        reference[world_size].run_to_completion()
    counted: Counter[str] = Counter()
    passed = True
    number = 0
    while sum(count for key, count in counted.items() if not key.endswith("term")) < trials:
        world_size, kind = KILL_TRIALS[number % len(KILL_TRIALS)]
        run = TrainingRun(data, directory / f"trial{number}", world_size)
        repeated = kill_and_resume(run, kind, random.Random(1000 + number))
        differences = run_differences(run.run_dir, reference[world_size].run_dir)
        counts = repeated > 0 or kind == "term"  # a kill right after a save repeats nothing and proves nothing
        counted[f"{world_size} {kind}"] += counts
        passed = passed and not differences
        steps = f"{repeated:2d} of {EPOCHS * STEPS_PER_EPOCH} steps repeated" + ("" if counts else " (not counted)")
        verdict = "bitwise identical" if not differences else f"DIFFERENT: {differences[:3]}"
        print(f"{number:3d}  world size {world_size}  {kind:8s}  {steps}  {verdict}", flush=True)
        shutil.rmtree(run.run_dir)
        number += 1
    print(f"counted: {dict(counted)}; {'all runs are bitwise identical' if passed else 'SOME RUNS ARE DIFFERENT'}")
    return passed


def interrupt_saves(directory: Path) -> bool:
    """Interrupt the save of an epoch at each system call; return whether a restart always finds a complete epoch.

    Needs strace. The process is killed before each call, and each write and fsync fails with ENOSPC and with EIO. A save that
    succeeds nevertheless, because only a directory could not be synced, must have saved the new epoch.
    """
    two_epochs, run_dir, trace = directory / "two-epochs", directory / "run", directory / "trace"
    traced = f"trace={TRACED_CALLS}"
    write_two_epochs(RunDir(two_epochs))

    def save_under_strace(*options: object) -> int:
        """Save a third epoch on top of two complete ones; return the exit code."""
        shutil.rmtree(run_dir, ignore_errors=True)
        shutil.copytree(two_epochs, run_dir)
        command = [*map(str, ("strace", *options, sys.executable, "-m", "tests.support.crash_save", run_dir))]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}  # for the same system calls in every run
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False).returncode

    assert save_under_strace("-o", trace, "-e", traced) == 0
    lines = trace.read_text().splitlines()
    calls = [line.split("(")[0] for line in lines]
    first = next(number for number, line in enumerate(lines) if TRACE_MARKER in line) + 1
    passed = True
    for what, fault, affected in (
        ("killed before", "signal=KILL", TRACED_CALLS.split(",")),
        ("failing with ENOSPC at", "error=ENOSPC", ("write", "fsync")),
        ("failing with EIO at", "error=EIO", ("write", "fsync")),
    ):
        outcomes: Counter[str] = Counter()
        for number, name in enumerate(calls):
            if number < first or name not in affected:
                continue
            nth = calls[: number + 1].count(name)  # strace counts each kind of system call separately
            code = save_under_strace("-o", trace, "-e", traced, "-e", f"inject={name}:{fault}:when={nth}")
            assert code != 0 or "(INJECTED)" in trace.read_text(), f"the save has no system call {name} number {nth}"
            outcome = describe_recovery(RunDir(run_dir))
            passed = passed and (code != 0 or outcome == "new")
            outcomes[outcome] += 1
        passed = passed and set(outcomes) <= {"old", "new", "new old"}
        print(f"save {what} each of its {sum(outcomes.values())} system calls; epochs that a restart found:")
        for outcome, count in sorted(outcomes.items()):
            print(f"  {count:3d} times: {outcome}", flush=True)
    return passed


def stress_service(directory: Path) -> bool:
    """Stop, kill and overload the service, and fuzz the image decoder; return whether all went as specified."""
    checkpoint = make_checkpoint(directory / "m.safetensors", "unet", 8, size=(128, 128))
    data = directory / "scenes-val"
    for index in range(60):
        write_scene(data, "val", index, (64, 128), seed=0)
    problems = [p for seed in range(20) for p in problems_after_sigterm(checkpoint, directory / f"stop{seed}", seed)]
    print(f"20 SIGTERMs with {IN_FLIGHT} requests in flight: {problems or 'no accepted request was lost'}", flush=True)
    kill_problems = problems_after_kills(checkpoint, data, directory / "killed", 10)
    print(f"10 SIGKILLs during evaluations: {kill_problems or 'the list is correct and no file is torn'}", flush=True)
    passed = not problems and not kill_problems
    for idle in (0, 200):
        stats = run_overload(checkpoint, directory / f"overload{idle}", 60, idle, SEGMENT_QUEUE=16)
        memory = f"{stats.rss_samples[0] / 1e6:.0f} to {max(stats.rss_samples) / 1e6:.0f} MB"
        print(
            f"four times the capacity for 60 s, {idle} idle connections: {dict(stats.responses)},"
            f" {stats.masks_per_second:.0f} masks/s; /healthz p99 {1000 * stats.health_p99:.0f} ms; memory {memory}",
            flush=True,
        )
        passed = passed and set(stats.responses) <= {"200", "503 overloaded"} and stats.health_p99 < 1
        passed = passed and max(stats.rss_samples) < 1.5 * stats.rss_samples[len(stats.rss_samples) // 6]
    return run_image_fuzzer(100_000, 1) == 0 and passed


PARTS = {"kills": kill_training, "saves": interrupt_saves, "service": stress_service}


def main(arguments: list[str] | None = None) -> int:
    """Run the parts; return 0 if all of them passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Long-running tests of crashes and overload.")
    parser.add_argument("parts", metavar="PART", nargs="*", help=f"parts to run (default: all): {', '.join(PARTS)}")
    parts = parser.parse_args(arguments).parts or list(PARTS)
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"unknown part {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    print(f"{environment_info()}\n", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        passed = [PARTS[part](Path(directory)) for part in parts]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
