"""Rendezvous of the ranks of a run: heartbeats, a store for the ranks of one attempt, and a gather without a deadline."""

from __future__ import annotations

import json
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

HEARTBEAT_S = 1.0
HEARTBEAT_TIMEOUT_S = 30.0  # a rank whose heartbeat stops for this long is considered dead
POLL_INTERVAL_S = 0.5
CHUNK = 1 << 20  # characters of a value per key; a store accepts at most 8 MB


class _Heartbeat(NamedTuple):
    value: bytes | None  # the last one that was read
    since: float  # monotonic time at which it was first read
    timeout_s: float  # maximum time until the next one


class Rendezvous:
    """Agrees on a store for the ranks that are alive now, in a store that the launcher keeps over restarts.

    Waiting for another rank takes as long as it needs, provided that it is alive: every rank writes a heartbeat each second.
    Waiting raises TimeoutError if the heartbeat stops for HEARTBEAT_TIMEOUT_S seconds, or does not start within `timeout_s`.
    """

    def __init__(self, store: Store, rank: int, world_size: int, timeout_s: float) -> None:
        self.base = self.store = store
        self.rank, self.world_size, self.timeout_s = rank, world_size, timeout_s
        self._token = uuid.uuid4().hex  # identifies this process: ranks and restart counts are used again
        self._gathers = 0  # calls of `gather`
        self._heartbeats: dict[int, _Heartbeat] = {}
        self._stopped = threading.Event()
        threading.Thread(target=self._write_heartbeats, daemon=True).start()

    def join(self) -> Store:
        """Wait until all ranks have joined and return the part of the store that they share.

        Every rank writes its token. Rank 0 responds to each token with the name of this attempt (its own token), and waits
        for an acknowledgment under that name: tokens of dead processes get a response too, but are never acknowledged. The
        launcher's restart count would not do as a name, because on several nodes each launcher counts for itself.
        """
        if self.rank == 0:
            name = self._token
            self._wait(self._acknowledge_joins, range(1, self.world_size))
        else:
            name = self._request_join()
        self.store = PrefixStore(name, self.store)
        return self.store

    def gather(self, value: Any) -> list[Any] | None:
        """Return the JSON-serializable values of all ranks, by rank, on rank 0, and None on the others, which do not wait.

        Every rank must call it equally often.
        """
        prefix = f"gather/{self._gathers}"
        self._gathers += 1
        if self.rank > 0:
            text = json.dumps(value)
            chunks = [text[offset : offset + CHUNK] for offset in range(0, len(text), CHUNK)]
            for number, chunk in enumerate(chunks):
                self.store.set(f"{prefix}/{self.rank}/{number}", chunk)
            self.store.set(f"{prefix}/{self.rank}", str(len(chunks)))  # last, so that rank 0 finds all chunks
            return None
        others = range(1, self.world_size)
        self._wait(lambda: [rank for rank in others if not self.store.check([f"{prefix}/{rank}"])], others, HEARTBEAT_TIMEOUT_S)
        return [value, *(json.loads("".join(self._read_chunks(f"{prefix}/{rank}"))) for rank in others)]

    def wait_for_all(self) -> None:
        """Wait until every rank has called this, however long that takes. Every rank must call it equally often."""
        finished = f"gather/{self._gathers}/finished"
        if self.gather(None) is not None:
            self.store.set(finished, "")
        self._wait(lambda: [] if self.store.check([finished]) else [0], [0], HEARTBEAT_TIMEOUT_S)

    def stop_heartbeat(self) -> None:
        """Stop the heartbeat; a rank that waits for this one then times out."""
        self._stopped.set()

    def _read_chunks(self, key: str) -> Iterable[str]:
        for number in range(int(self.store.get(key))):
            yield self.store.get(f"{key}/{number}").decode()

    def _request_join(self) -> str:
        """Write this rank's token, wait for rank 0's response, acknowledge it, and return the name of the attempt."""
        response = f"response/{self._token}"
        self.store.set(f"here/{self.rank}", self._token)
        self._wait(lambda: [] if self.store.check([response]) else [0], [0])
        name = self.store.get(response).decode()
        self.store.set(f"{name}/{self.rank}", "")
        return name

    def _acknowledge_joins(self) -> list[int]:
        """Respond to the tokens of the ranks that have not acknowledged yet, and return these ranks."""
        missing = [rank for rank in range(1, self.world_size) if not self.store.check([f"{self._token}/{rank}"])]
        for rank in missing:
            if self.store.check([f"here/{rank}"]):
                self.store.set(f"response/{self.store.get(f'here/{rank}').decode()}", self._token)
        return missing

    def _write_heartbeats(self) -> None:
        number, host = 0, socket.gethostname()
        while not self._stopped.is_set():
            try:
                self.base.set(f"beat/{self.rank}", f"{self._token} {number} {host}")
            except RuntimeError:  # The store is gone, which the main thread reports when it uses the store.
                return
            number += 1
            self._stopped.wait(HEARTBEAT_S)

    def _wait(self, missing: Callable[[], list[int]], ranks: Iterable[int], timeout_s: float | None = None) -> None:
        """Poll until no rank is missing; unlike the store's own wait, polling lets Python handle signals.

        Args:
            missing: Returns the ranks that are still missing.
            ranks: All ranks that may be missing.
            timeout_s: Maximum time until the first heartbeat of a rank (default: the rendezvous' timeout).
        """
        now, pause = time.monotonic(), 0.01
        self._heartbeats = {rank: _Heartbeat(self._last_heartbeat(rank), now, timeout_s or self.timeout_s) for rank in ranks}
        while missing_ranks := missing():
            for rank in missing_ranks:
                self._check_alive(rank)
            time.sleep(pause)
            pause = min(2 * pause, POLL_INTERVAL_S)

    def _last_heartbeat(self, rank: int) -> bytes | None:
        key = f"beat/{rank}"
        return self.base.get(key) if self.base.check([key]) else None

    def _check_alive(self, rank: int) -> None:
        value, now = self._last_heartbeat(rank), time.monotonic()
        last = self._heartbeats[rank]
        if value != last.value:  # The first value may be that of a dead process, so only a change proves life.
            self._heartbeats[rank] = _Heartbeat(value, now, min(HEARTBEAT_TIMEOUT_S, self.timeout_s))
        elif now - last.since > last.timeout_s:
            host = value.decode().split(" ", 2)[2] if value else "another node"
            raise TimeoutError(f"rank {rank} on {host}: no heartbeat for {last.timeout_s:g} s; check that the node is running")
