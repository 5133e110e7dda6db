"""A tenth of the bad days of `make soak`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import make_checkpoint
from tests.support.resilience import (
    asked_for_four_times_what_it_can,
    killed_while_it_evaluates,
    stopped_with_requests_in_flight,
)
from training.commands.synthesize import write_scene


@pytest.mark.parametrize("seed", range(2))
def test_no_request_that_was_accepted_is_lost_when_the_service_stops(checkpoint: Path, tmp_path: Path, seed: int) -> None:
    assert not stopped_with_requests_in_flight(checkpoint, tmp_path, seed)


def test_a_service_that_was_killed_knows_its_evaluations(checkpoint: Path, tmp_path: Path) -> None:
    for index in range(60):
        write_scene(tmp_path / "scenes", "val", index, (64, 128), seed=0)
    assert not killed_while_it_evaluates(checkpoint, tmp_path / "scenes", tmp_path, 1)


def test_four_times_its_capacity_is_turned_away_politely_beside_200_silent_sockets(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "m.safetensors", "unet", 8, size=(128, 128))
    crowd = asked_for_four_times_what_it_can(checkpoint, tmp_path, 6, 200, SEGMENT_QUEUE=8)
    assert set(crowd.replies) == {"200", "503 overloaded"}
    assert crowd.replies["200"] and crowd.slowest_health < 1
    assert max(crowd.memory) < 1.5 * crowd.memory[0]
