"""Tests that a killed and resumed run is bitwise identical to an uninterrupted one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support.kill_resume import kill_and_resume, run_differences
from tests.support.training_process import EPOCHS, STEPS_PER_EPOCH, TrainingRun, write_scenes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("killed") / "scenes")


@pytest.fixture(scope="module")
def uninterrupted(data: Path) -> dict[int, Path]:
    """Run directories of completed runs by number of processes."""
    runs = {}
    for processes in (1, 2):
        run = TrainingRun(data, data.parent / f"uninterrupted{processes}", processes)
        run.run_to_completion()
        assert run.count_events() == EPOCHS * STEPS_PER_EPOCH
        runs[processes] = run.run_dir
    return runs


# `make soak` repeats these kinds dozens of times.
CASES = [(1, "tree"), (2, "tree"), (2, "launcher"), (2, "rank"), (2, "term")]


@pytest.mark.parametrize(("number", "processes", "kind"), [(n, *case) for n, case in enumerate(CASES)])
def test_killed_run_is_bitwise_reproducible(
    data: Path, uninterrupted: dict[int, Path], tmp_path: Path, number: int, processes: int, kind: str
) -> None:
    for attempt in range(5):
        run = TrainingRun(data, tmp_path / str(attempt), processes)
        repeated_steps = kill_and_resume(run, kind, random.Random(100 * number + attempt))
        if kind == "term" or repeated_steps:
            break  # A kill right after a save repeats no step, so it would prove nothing.
    assert repeated_steps == 0 if kind == "term" else repeated_steps > 0
    assert run_differences(run.run_dir, uninterrupted[processes]) == []
