"""The models that are compared: opened, named, and grouped where they differ by their seed only."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.checkpoint import Checkpoint, find_checkpoint, read_checkpoint
from core.errors import InputError
from core.segmenter import Segmenter
from training.run_folder import Row, history_of, read_rows

OF_ITS_OWN = ("--model", "--width", "--seed", "--init")  # flags whose value does not belong to a recipe
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
    def seeds(self) -> tuple[int, ...]:
        """The seeds of its trainings; none where its card does not tell."""
        return tuple(leg.seed for leg in self.checkpoint.card.legs)

    @property
    def recipe(self) -> tuple[str, ...]:
        """How it was trained, whatever the architecture, the seeds and the names of checkpoints that it passed through."""
        return tuple(_without_values(leg.command) for leg in self.checkpoint.card.legs)


def open_contestants(sources: Sequence[str], device: str, backend: str) -> list[Contestant]:
    """Open all checkpoints. Raises InputError: no checkpoint, one name for two, other classes, another device."""
    found = [find_checkpoint(source) for source in sources]
    by_name: dict[str, Path] = {}
    for name, path in found:
        if by_name.setdefault(name, path) is not path:
            raise InputError(f"two of the models are called {name!r}: {by_name[name]} and {path}; rename a run folder or file")
    checkpoints = [read_checkpoint(path, name) for name, path in found]
    first = checkpoints[0]
    for other in checkpoints[1:]:
        difference = first.card.labels.difference(other.card.labels)
        if difference:
            raise InputError(f"{first.name} and {other.name}: {difference}; compare models of one label space")
    return [Contestant(c, Segmenter(c, device, backend), read_rows(history_of(c.path))) for c in checkpoints]


def same_but_for_the_seed(contestants: Sequence[Contestant]) -> dict[str, list[int]]:
    """Places of the models of each architecture and recipe that has three seeds or more, by a name for the group."""
    groups: defaultdict[tuple[object, ...], dict[int, int]] = defaultdict(dict)
    for place, contestant in enumerate(contestants):
        if contestant.seeds:
            architecture = contestant.checkpoint.card.architecture
            key = (architecture.name, architecture.width, contestant.recipe)
            groups[key].setdefault(contestant.seeds[0], place)  # the same first seed twice is one draw of the weights
    enough = {key: list(places.values()) for key, places in groups.items() if len(places) >= SEEDS}
    named: dict[str, list[int]] = {}
    for (architecture_name, width, _), places in enough.items():
        name = f"{architecture_name} of width {width}"
        alike = sum(key[:2] == (architecture_name, width) for key in enough) > 1
        named[f"{name} ({contestants[places[0]].name} and its like)" if alike else name] = places
    return named


def _without_values(command: str) -> str:
    """A training's command with nothing behind --model, --width, --seed and --init."""
    words = shlex.split(command)
    before = ["", *words]
    return shlex.join(word for word, flag in zip(words, before, strict=False) if flag not in OF_ITS_OWN)
