"""Tests of training.distributed.rendezvous: several ranks in one process, on an in-memory store."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]

from tests.support.wait import wait_until
from training.distributed import rendezvous
from training.distributed.rendezvous import Rendezvous

WORLD_SIZE = 3


@pytest.fixture
def ranks() -> Iterator[list[Rendezvous]]:
    """The rendezvous of each rank, with a running heartbeat."""
    store = HashStore()
    ranks = [Rendezvous(store, rank, WORLD_SIZE, timeout_s=10) for rank in range(WORLD_SIZE)]
    yield ranks
    for member in ranks:
        member.stop_heartbeat()


def gather(ranks: list[Rendezvous], values: list[object]) -> list[list[object] | None]:
    """Return the result of each rank. Rank 0 is called last, because it is the only one that waits."""
    return [member.gather(value) for member, value in zip(reversed(ranks), reversed(values), strict=True)][::-1]


def test_repeated_gathers_return_their_own_values(ranks: list[Rendezvous]) -> None:
    with ThreadPoolExecutor(WORLD_SIZE) as pool:
        list(pool.map(Rendezvous.join, ranks))
    for call in range(3):
        values: list[object] = [[rank, call] for rank in range(WORLD_SIZE)]
        assert gather(ranks, values) == [values, None, None]


def test_values_longer_than_a_chunk_are_gathered(ranks: list[Rendezvous], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "CHUNK", 5)
    values: list[object] = [f"a value of many characters from rank {rank}: äöü" for rank in range(WORLD_SIZE)]
    assert gather(ranks, values) == [values, None, None]


def test_wait_for_all_ends_when_last_rank_arrives(ranks: list[Rendezvous]) -> None:
    with ThreadPoolExecutor(WORLD_SIZE) as pool:
        waiting = [pool.submit(member.wait_for_all) for member in ranks[:2]]
        wait_until(lambda: ranks[0].store.check(["gather/0/1"]), timeout_s=10)
        assert not any(future.done() for future in waiting)
        ranks[2].wait_for_all()
        for future in waiting:
            future.result()
    values: list[object] = ["the next gather", "has values", "of its own"]
    assert gather(ranks, values) == [values, None, None]


def test_rank_without_heartbeat_is_a_timeout(ranks: list[Rendezvous], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "HEARTBEAT_TIMEOUT_S", 0.2)
    ranks[1].gather("value")
    ranks[0].store.set("beat/2", "token 0 node")  # the last heartbeat of a process that has died
    with pytest.raises(TimeoutError, match=r"rank 2 on .*: no heartbeat for 0.2 s"):
        ranks[0].gather("value")
