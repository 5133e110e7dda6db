"""The models that are compared: opened, named, and grouped where they differ by their seed only."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.checkpoint import Checkpoint, find_checkpoint, read_checkpoint
from core.errors import InputError
from core.segmenter import Segmenter
from training.run_folder import Row, history_of, read_rows

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
        """How it was trained, without the seeds and without the names of the checkpoints that it passed through."""
        return tuple(re.sub(r" --(seed|init) \S+", "", leg.command) for leg in self.checkpoint.card.legs)


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
        ours, theirs = first.card.labels, other.card.labels
        if ours.names != theirs.names:
            raise InputError(f"{first.name} knows {len(ours)} classes ({', '.join(ours.names[:3])}, ...) and {other.name}"
                             f" {len(theirs)} ({', '.join(theirs.names[:3])}, ...): scores of other classes can't be compared;"
                             " compare models of one label space")  # fmt: skip
    return [Contestant(c, Segmenter(c, device, backend), read_rows(history_of(c.path))) for c in checkpoints]


def same_but_for_the_seed(contestants: Sequence[Contestant]) -> dict[str, list[int]]:
    """Places of the models of each architecture and recipe that has three seeds or more, by a name for the group."""
    groups: defaultdict[tuple[object, ...], dict[tuple[int, ...], int]] = defaultdict(dict)
    for place, contestant in enumerate(contestants):
        if contestant.seeds:
            architecture = contestant.checkpoint.card.architecture
            key = (architecture.name, architecture.width, contestant.recipe)
            groups[key].setdefault(contestant.seeds, place)  # the same seed twice is one draw
    enough = {key: list(places.values()) for key, places in groups.items() if len(places) >= SEEDS}
    named: dict[str, list[int]] = {}
    for (architecture_name, width, _), places in enough.items():
        name = f"{architecture_name} of width {width}"
        alike = sum(key[:2] == (architecture_name, width) for key in enough) > 1
        named[f"{name} ({contestants[places[0]].name} and its like)" if alike else name] = places
    return named
