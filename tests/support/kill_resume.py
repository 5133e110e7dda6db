"""Kill training runs at a random step, resume them, and compare the result with an uninterrupted run.

Used by `make test` with a few kills and by `make soak` with dozens.
"""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np

from core.checkpoints import safetensors_io
from tests.support.training_process import EPOCHS, STEPS_PER_EPOCH, TrainingRun, is_running

TIMING_COLUMNS = ("images_per_s", "seconds")  # of history.csv; they differ from run to run


def kill_tree(run: TrainingRun, process: subprocess.Popen[str], rng: random.Random) -> None:
    """Send SIGKILL to the launcher and all ranks."""
    for pid in (*run.worker_pids(process), process.pid):
        os.kill(pid, signal.SIGKILL)


def kill_launcher(run: TrainingRun, process: subprocess.Popen[str], rng: random.Random) -> None:
    """Send SIGKILL to the launcher alone, and check that its ranks end too."""
    workers = run.worker_pids(process)
    process.kill()
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in workers):
        assert time.monotonic() < deadline, f"processes {workers} are still running 10 s after their launcher was killed"
        time.sleep(0.01)


def kill_rank(run: TrainingRun, process: subprocess.Popen[str], rng: random.Random) -> None:
    """Send SIGKILL to one rank; the launcher then restarts all of them."""
    os.kill(rng.choice(run.worker_pids(process)), signal.SIGKILL)


def terminate(run: TrainingRun, process: subprocess.Popen[str], rng: random.Random) -> None:
    """Send SIGTERM, and check that the run saves its state and exits with 0 within 20 s."""
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code = run.finish(process, timeout=30)
    assert code == 0, run.outputs[-1]
    assert time.monotonic() - began < 20
    assert "resume with: python -m training train --run" in run.outputs[-1] or f"epoch {EPOCHS}/{EPOCHS}" in run.outputs[-1]


KILLS = {"tree": kill_tree, "launcher": kill_launcher, "rank": kill_rank, "term": terminate}


def kill_and_resume(run: TrainingRun, kind: str, rng: random.Random) -> int:
    """Kill a new run at a random step, resume it until it completes, and return the number of repeated steps.

    Args:
        run: a run whose directory does not exist yet.
        kind: a key of KILLS.
        rng: chooses the step, and the rank for "rank".
    """
    process = run.start()
    # State is saved after every second step; a kill right after a save would repeat nothing, so it would prove nothing.
    steps = [s for s in range(1, EPOCHS * STEPS_PER_EPOCH) if kind == "term" or s % STEPS_PER_EPOCH % 2]
    assert run.wait_for_events(process, rng.choice(steps)), run.finish(process)
    KILLS[kind](run, process, rng)
    if kind == "rank":
        assert run.finish(process) == 0, run.outputs[-1]
        assert "restarting all processes from the newest checkpoint" in run.outputs[-1]
    else:
        if kind != "term":
            run.finish(process)
        run.run_to_completion()
    return run.count_events() - EPOCHS * STEPS_PER_EPOCH


def run_differences(run_dir: Path, reference_dir: Path, epochs: int = EPOCHS) -> list[str]:
    """List everything in which two finished runs differ, except for timings; empty if they are bitwise identical."""
    differences = []
    checkpoints = ["best", "last", *(f"epoch-{epoch:04d}" for epoch in range(1, epochs + 1))]
    for name in (*(f"checkpoints/{c}.safetensors" for c in checkpoints), f"resume/{epochs:04d}-000000.safetensors"):
        (metadata, tensors), (other_metadata, other_tensors) = (
            safetensors_io.read(directory / name) for directory in (run_dir, reference_dir)
        )
        differences += [
            f"{name}: {key}" for key in metadata.keys() | other_metadata.keys() if metadata.get(key) != other_metadata.get(key)
        ]
        differences += [
            f"{name}: {key}"
            for key in tensors.keys() | other_tensors.keys()
            if key not in tensors or key not in other_tensors or not np.array_equal(tensors[key], other_tensors[key])
        ]
    if _history_without_timings(run_dir) != _history_without_timings(reference_dir):
        differences.append("history.csv")
    return differences


def _history_without_timings(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "history.csv").open() as file:
        return [{key: value for key, value in row.items() if key not in TIMING_COLUMNS} for row in csv.DictReader(file)]
