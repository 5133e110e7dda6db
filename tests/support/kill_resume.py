"""Kills training runs by their progress, lets them go on, and compares what they end with: `make test` and `make soak`."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from core.checkpoints import safetensors_io
from training.commands.synthesize import write_scene

ROOT = Path(__file__).parents[2]
EPOCHS, STEPS = 3, 6
FLAGS = ("--width", 2, "--size", 32, 64, "--batch-size", 4, "--epochs", EPOCHS, "--checkpoint-every", 2, "--ema", 0.9)
FLAGS += ("--schedule", "cosine", "--warmup", 0.5, "--clip", 5, "--model", "ddunet", "--timeout", 60)
TIMED = ("images_per_s", "seconds")


def write_data(folder: Path) -> Path:
    """Scenes for STEPS steps of an epoch and a short evaluation."""
    for split, count in (("train", 4 * STEPS), ("val", 5)):
        for index in range(count):
            write_scene(folder, split, index, (32, 64), seed=0)
    return folder


@dataclass
class Victim:
    """A run in a folder, as often started as it takes."""

    data: Path
    folder: Path
    processes: int = 1
    flags: tuple[object, ...] = ()
    slow: str = ""
    program: tuple[str, ...] = (sys.executable, "-m", "tests.support.traced_training")
    out: list[str] = field(default_factory=list)
    told: bool = True  # to go on, where there is a run: a launcher's job knows its own

    def done(self, rank: int = 0, what: str = "steps") -> int:
        """How often a rank did something, redone steps included."""
        path = self.folder.with_suffix(".trace")
        lines = path.read_text().splitlines() if path.exists() else []
        return sum(line.split()[:2] == [what, str(rank)] for line in lines)

    def start(self) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TRACE": str(self.folder.with_suffix(".trace")),
            "SLOW": self.slow,
            "PROCESSES": str(self.processes),
            "OMP_NUM_THREADS": str(max(1, 2 // self.processes)),
        }
        command = [*self.program, "train", "--data", self.data, "--run", self.folder, *FLAGS, *self.flags]
        again = ["--resume"] if self.told and (self.folder / "config.json").exists() else []
        return subprocess.Popen(
            [*map(str, command), *again], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def finish(self, process: subprocess.Popen[str], timeout: float = 120) -> int:
        self.out.append(process.communicate(timeout=timeout)[0])
        return process.returncode

    def whole(self) -> None:
        """Start it, as often as needed, until it ends by itself."""
        process = self.start()
        assert self.finish(process) == 0, self.out[-1]

    def until(self, process: subprocess.Popen[str], times: int, rank: int = 0, what: str = "steps") -> bool:
        """Wait until a rank did something so many more times; False where the run ends first."""
        wanted = self.done(rank, what) + times
        while self.done(rank, what) < wanted:
            if process.poll() is not None:
                return False
            time.sleep(0.001)
        return True

    def workers(self, process: subprocess.Popen[str]) -> list[int]:
        """The processes that a launcher has started and that still live."""
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return [int(pid) for pid in children]


def kill_tree(victim: Victim, process: subprocess.Popen[str], chance: random.Random) -> None:
    """SIGKILL of the launcher and all ranks."""
    for pid in (*victim.workers(process), process.pid):
        os.kill(pid, signal.SIGKILL)


def kill_launcher(victim: Victim, process: subprocess.Popen[str], chance: random.Random) -> None:
    """SIGKILL of the launcher alone: its workers must go with it."""
    workers = victim.workers(process)
    process.kill()
    deadline = time.monotonic() + 10
    while any(lives(pid) for pid in workers):
        assert time.monotonic() < deadline, f"workers {workers} outlive their launcher"
        time.sleep(0.01)


def lives(pid: int) -> bool:
    """Whether a process runs: one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill_rank(victim: Victim, process: subprocess.Popen[str], chance: random.Random) -> None:
    """SIGKILL of one rank: the launcher starts all again by itself."""
    os.kill(chance.choice(victim.workers(process)), signal.SIGKILL)


def terminate(victim: Victim, process: subprocess.Popen[str], chance: random.Random) -> None:
    """SIGTERM: it must save and end with 0 within 20 s."""
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code = victim.finish(process, timeout=30)
    assert code == 0, victim.out[-1]
    assert time.monotonic() - began < 20
    assert "go on with: python -m training train --run" in victim.out[-1] or f"epoch {EPOCHS}/{EPOCHS}" in victim.out[-1]


KILLS = {"tree": kill_tree, "launcher": kill_launcher, "rank": kill_rank, "term": terminate}


def trial(victim: Victim, kind: str, chance: random.Random) -> int:
    """Kill a run of this kind at a random step, let it go on to its end; how many steps were done twice."""
    process = victim.start()
    # not at a step after which everything is saved: such a kill would redo nothing
    at = chance.choice([s for s in range(1, EPOCHS * STEPS) if kind == "term" or s % STEPS % 2])
    assert victim.until(process, at), victim.finish(process)
    KILLS[kind](victim, process, chance)
    if kind == "rank":
        assert victim.finish(process) == 0, victim.out[-1]
        assert "all start again from the newest checkpoint" in victim.out[-1]
    else:
        if kind != "term":
            victim.finish(process)
        victim.whole()
    return victim.done() - EPOCHS * STEPS


def differences(ours: Path, theirs: Path, epochs: int = EPOCHS) -> list[str]:
    """Everything in which two finished runs differ, times aside; nothing where they end with the same bits."""
    found = []
    names = [f"checkpoints/{name}.safetensors" for name in ("best", "last", *(f"epoch-{e + 1:04d}" for e in range(epochs)))]
    for name in (*names, f"resume/{epochs:04d}-000000.safetensors"):
        (first, mine), (second, other) = safetensors_io.read(ours / name), safetensors_io.read(theirs / name)
        found += [f"{name}: {key}" for key in first.keys() | second.keys() if first.get(key) != second.get(key)]
        found += [
            f"{name}: {key}"
            for key in mine.keys() | other.keys()
            if key not in mine or key not in other or not np.array_equal(mine[key], other[key])
        ]
    rows = [list(csv.DictReader((folder / "history.csv").open())) for folder in (ours, theirs)]
    cut = [[{k: v for k, v in row.items() if k not in TIMED} for row in part] for part in rows]
    return found + ["history.csv"] * (cut[0] != cut[1])
