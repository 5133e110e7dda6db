"""The models that are compared: opened on one back end, and grouped by training recipe."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.backends.base import TORCH
from core.checkpoints.checkpoint import Architecture, Checkpoint, find_checkpoint, read_checkpoint
from core.errors import InputError
from core.inference.segmenter import Segmenter
from training.tracking.history import Row, history_files, read_rows

NON_RECIPE_FLAGS = ("--model", "--width", "--seed")  # flags that may differ between trainings of the same recipe
MIN_SEEDS = 3  # per architecture; with fewer, the variance between seeds can't be estimated

GroupKey = tuple[Architecture, tuple[str, ...]]


@dataclass(frozen=True)
class ComparedModel:
    """A checkpoint, its network ready to run, and the history of its training if available."""

    checkpoint: Checkpoint
    segmenter: Segmenter
    history: list[Row]

    @property
    def name(self) -> str:
        """Name of the run directory, or of the file."""
        return self.checkpoint.name

    @property
    def seed(self) -> int | None:
        """Seed of the first training, which drew the initial weights; None if it is not recorded."""
        stages = self.checkpoint.metadata.stages
        return stages[0].seed if stages else None

    @property
    def group_key(self) -> GroupKey:
        """Architecture and recipe, which are equal for models that differ only in their seed."""
        return self.checkpoint.metadata.architecture, self.recipe

    @property
    def recipe(self) -> tuple[str, ...]:
        """Commands of its trainings without architecture, seed and names of checkpoints."""
        return tuple(_recipe(stage.command) for stage in self.checkpoint.metadata.stages)


def open_models(sources: Sequence[str], device: str, backend: str) -> list[ComparedModel]:
    """Open checkpoints for a comparison, all on the same back end.

    Args:
        sources: Run directories, checkpoint files or names of bundled checkpoints.
        backend: Name of a back end. With `auto`, it is the one that is chosen for every model, or torch if the choices differ.

    Raises:
        InputError: A source is not a checkpoint or is given twice, two share a name, their classes differ, or the device or
            back end is not available.
    """
    files = [find_checkpoint(source) for source in sources]
    by_name: dict[str, Path] = {}
    for name, path in files:
        other = by_name.setdefault(name, path)
        if other is not path and other.samefile(path):
            raise InputError(f"{path}: given twice; remove one")
        if other is not path:
            raise InputError(f"two models are named {name!r}: {other} and {path}; rename one run directory or file")
    checkpoints = [read_checkpoint(path, name) for name, path in files]
    first = checkpoints[0]
    for second in checkpoints[1:]:
        difference = first.metadata.labels.describe_difference(second.metadata.labels)
        if difference:
            raise InputError(f"{first.name} and {second.name}: {difference}; compare models with the same classes")
    segmenters = [Segmenter(checkpoint, device, backend) for checkpoint in checkpoints]
    if len({segmenter.backend.name for segmenter in segmenters}) > 1:
        # Only `auto` chooses per model, for example int8 for the one model that was exported. A difference between back ends
        # must not show up as a difference between models.
        segmenters = [Segmenter(checkpoint, device, TORCH) for checkpoint in checkpoints]
    return [
        ComparedModel(checkpoint, segmenter, read_rows(*history_files(checkpoint.path)))
        for checkpoint, segmenter in zip(checkpoints, segmenters, strict=True)
    ]


def group_by_recipe(models: Sequence[ComparedModel]) -> dict[str, list[int]]:
    """Return the indices of the models of each architecture and recipe with at least `MIN_SEEDS` seeds, by group name.

    Of several models with the same seed, only the first counts: they share their initial weights.
    """
    groups: defaultdict[GroupKey, dict[int, int]] = defaultdict(dict)
    for index, model in enumerate(models):
        if model.seed is not None:
            groups[model.group_key].setdefault(model.seed, index)
    large_groups = {key: list(by_seed.values()) for key, by_seed in groups.items() if len(by_seed) >= MIN_SEEDS}
    named: dict[str, list[int]] = {}
    for (architecture, _), indices in large_groups.items():
        name = f"{architecture.name} of width {architecture.width}"
        ambiguous = sum(other == architecture for other, _ in large_groups) > 1
        named[f"{name} (trained like {models[indices[0]].name})" if ambiguous else name] = indices
    return named


def _recipe(command: str) -> str:
    """Return a training command without --model, --width and --seed, and without the value of --init."""
    words, kept = iter(shlex.split(command)), []
    for word in words:
        if word in (*NON_RECIPE_FLAGS, "--init"):
            next(words, None)  # its value
        if word not in NON_RECIPE_FLAGS:
            kept.append(word)
    return shlex.join(kept)
