"""Where the ranks of a run meet: they hear of each other's lives, agree on a name, and leave things for the first of them."""

from __future__ import annotations

import json
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

BEAT_S = 1.0
SILENCE_S = 30.0  # after which who was heard is taken for dead
POLL_S = 0.5
CHUNK = 1 << 20  # characters of a value; a store takes 8 MB


class Meeting:
    """A store that all ranks of a launcher see, over its restarts, with a part of its own for those who met this time.

    Whoever is waited for may take as long as it likes, as long as it lives: every rank tells so each second, and where it
    falls silent for SILENCE_S seconds, or was not heard at all for `timeout_s`, waiting for it is a TimeoutError.
    """

    def __init__(self, store: Store, rank: int, ranks: int, timeout_s: float) -> None:
        self.base = self.store = store
        self.rank, self.ranks, self.timeout_s = rank, ranks, timeout_s
        self._own = uuid.uuid4().hex
        self._heard: dict[int, tuple[bytes | None, float, float]] = {}  # the last word, since when, how long to wait
        self._left = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def meet(self) -> Store:
        """Wait until all ranks are there; the part of the store that is theirs.

        Every rank leaves a token of its own, the first one answers it with the name of this meeting, and waits for a nod
        under that name: what a dead process has left is answered, too, and nods no more. How often a launcher has started its
        processes is no such name: where machines come and go, each counts for itself.
        """
        name = self._own if self.rank == 0 else self._announce()
        if self.rank == 0:
            self._wait(self._answer, range(1, self.ranks))
        self.store = PrefixStore(name, self.store)
        return self.store

    def collect(self, value: Any) -> list[Any] | None:
        """Every rank's value, which JSON can hold, on the first one, by rank; None on the others, which go on."""
        text = json.dumps(value)
        parts = [text[place : place + CHUNK] for place in range(0, len(text), CHUNK)]
        if self.rank > 0:
            for number, part in enumerate(parts):
                self.store.set(f"left/{self.rank}/{number}", part)
            self.store.set(f"left/{self.rank}", str(len(parts)))
            return None
        others = range(1, self.ranks)
        self._wait(lambda: [other for other in others if not self.store.check([f"left/{other}"])], others, SILENCE_S)
        return [value, *(json.loads("".join(self._parts(other))) for other in others)]

    def leave(self) -> None:
        """Say nothing any more."""
        self._left.set()

    def _parts(self, other: int) -> Iterable[str]:
        for number in range(int(self.store.get(f"left/{other}"))):
            yield self.store.get(f"left/{other}/{number}").decode()

    def _announce(self) -> str:
        self.store.set(f"here/{self.rank}", self._own)
        self._wait(lambda: [] if self.store.check([f"answer/{self._own}"]) else [0], [0])
        name = self.store.get(f"answer/{self._own}").decode()
        self.store.set(f"{name}/{self.rank}", "")
        return name

    def _answer(self) -> list[int]:
        absent = [other for other in range(1, self.ranks) if not self.store.check([f"{self._own}/{other}"])]
        for other in absent:
            if self.store.check([f"here/{other}"]):
                self.store.set(f"answer/{self.store.get(f'here/{other}').decode()}", self._own)
        return absent

    def _beat(self) -> None:
        """Leave another word each second. A store that is gone is told by whoever uses it."""
        number, name = 0, socket.gethostname()
        while not self._left.is_set():
            try:
                self.base.set(f"beat/{self.rank}", f"{self._own} {number} {name}")
            except RuntimeError:
                return
            number += 1
            self._left.wait(BEAT_S)

    def _wait(self, missing: Callable[[], list[int]], others: Iterable[int], patience: float | None = None) -> None:
        """Wait until nobody is missing, and hear signals meanwhile, which a wait of the store itself would not."""
        now, pause = time.monotonic(), 0.01
        self._heard = {other: (self._word(other), now, patience or self.timeout_s) for other in others}
        while absent := missing():
            for other in absent:
                self._require_life(other)
            time.sleep(pause)
            pause = min(2 * pause, POLL_S)

    def _word(self, other: int) -> bytes | None:
        key = f"beat/{other}"
        return self.base.get(key) if self.base.check([key]) else None

    def _require_life(self, other: int) -> None:
        word, now = self._word(other), time.monotonic()
        before, since, patience = self._heard[other]
        if word != before:  # what stood there at first may be a dead process's
            self._heard[other] = (word, now, min(SILENCE_S, self.timeout_s))
        elif now - since > patience:
            name = word.decode().split(" ", 2)[2] if word else "another machine"
            raise TimeoutError(f"process {other} on {name} has said nothing for {patience:g} s; is that machine there?")
