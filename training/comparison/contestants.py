"""The models that are compared: opened, named, and grouped where they differ by their seed only."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.checkpoints.checkpoint import Architecture, Checkpoint, find_checkpoint, read_checkpoint
from core.errors import InputError
from core.inference.segmenter import Segmenter
from training.tracking.history import Row, histories_of, read_rows

OF_ITS_OWN = ("--model", "--width", "--seed")  # flags that do not belong to a recipe
SEEDS = 3  # so many of each architecture, or the difference may be that of two draws of the weights


@dataclass(frozen=True)
class Contestant:
    """A checkpoint that takes part, and the history of its run where that is at hand."""

    checkpoint: Checkpoint
    segmenter: Segmenter
    history: list[Row]

    @property
    def name(self) -> str:
        """The name of its run folder, or of the file."""
        return self.checkpoint.name

    @property
    def seed(self) -> int | None:
        """The seed of its first training, of which its weights were drawn: later ones start from those. None: not told."""
        legs = self.checkpoint.card.legs
        return legs[0].seed if legs else None

    @property
    def kind(self) -> tuple[Architecture, tuple[str, ...]]:
        """What a group of seeds has in common: architecture and recipe."""
        return self.checkpoint.card.architecture, self.recipe

    @property
    def recipe(self) -> tuple[str, ...]:
        """How it was trained, whatever the architecture, the seeds and the names of checkpoints that it passed through."""
        return tuple(_recipe(leg.command) for leg in self.checkpoint.card.legs)


def open_contestants(sources: Sequence[str], device: str, backend: str) -> list[Contestant]:
    """Open all checkpoints. Raises InputError: no checkpoint, one name for two, other classes, another device."""
    found = [find_checkpoint(source) for source in sources]
    by_name: dict[str, Path] = {}
    for name, path in found:
        other = by_name.setdefault(name, path)
        if other is not path and other.samefile(path):
            raise InputError(f"{path}: given twice; leave one out")
        if other is not path:
            raise InputError(f"two of the models are called {name!r}: {other} and {path}; rename a run folder or file")
    checkpoints = [read_checkpoint(path, name) for name, path in found]
    first = checkpoints[0]
    for second in checkpoints[1:]:
        difference = first.card.labels.difference(second.card.labels)
        if difference:
            raise InputError(f"{first.name} and {second.name}: {difference}; compare models of one label space")
    return [Contestant(c, Segmenter(c, device, backend), read_rows(*histories_of(c.path))) for c in checkpoints]


def same_but_for_the_seed(contestants: Sequence[Contestant]) -> dict[str, list[int]]:
    """Places of the models of each architecture and recipe that has three seeds or more, by a name for the group."""
    groups: defaultdict[tuple[Architecture, tuple[str, ...]], dict[int, int]] = defaultdict(dict)
    for place, contestant in enumerate(contestants):
        if contestant.seed is not None:
            groups[contestant.kind].setdefault(contestant.seed, place)  # the same seed twice is one draw of the weights
    enough = {key: list(places.values()) for key, places in groups.items() if len(places) >= SEEDS}
    named: dict[str, list[int]] = {}
    for (architecture, _), places in enough.items():
        name = f"{architecture.name} of width {architecture.width}"
        alike = sum(other == architecture for other, _ in enough) > 1
        named[f"{name} ({contestants[places[0]].name} and others of its recipe)" if alike else name] = places
    return named


def _recipe(command: str) -> str:
    """A training's command without --model, --width and --seed, and with nothing behind --init."""
    words, kept = iter(shlex.split(command)), []
    for word in words:
        if word in (*OF_ITS_OWN, "--init"):
            next(words, None)
        if word not in OF_ITS_OWN:
            kept.append(word)
    return shlex.join(kept)
