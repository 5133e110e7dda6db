"""Killed runs end with the bits of an undisturbed one: weights, optimizer, average and history."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support.kill_resume import EPOCHS, STEPS, Victim, differences, trial, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("killed") / "scenes")


@pytest.fixture(scope="module")
def undisturbed(data: Path) -> dict[int, Path]:
    runs = {}
    for processes in (1, 2):
        victim = Victim(data, data.parent / f"whole{processes}", processes)
        victim.whole()
        assert victim.done() == EPOCHS * STEPS
        runs[processes] = victim.folder
    return runs


# one of each kind; `make soak` has a dozen
CASES = [(1, "tree"), (2, "tree"), (2, "launcher"), (2, "rank"), (2, "term")]


@pytest.mark.parametrize(("number", "processes", "kind"), [(n, *case) for n, case in enumerate(CASES)])
def test_a_killed_run_ends_with_the_same_bits(
    data: Path, undisturbed: dict[int, Path], tmp_path: Path, number: int, processes: int, kind: str
) -> None:
    for attempt in range(5):
        victim = Victim(data, tmp_path / str(attempt), processes)
        redone = trial(victim, kind, random.Random(100 * number + attempt))
        if kind == "term" or redone:
            break  # a kill that came a save too late redoes nothing, and proves nothing
    assert redone == 0 if kind == "term" else redone > 0
    assert differences(victim.folder, undisturbed[processes]) == []
