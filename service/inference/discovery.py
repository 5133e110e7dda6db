"""Discovery: which models and devices the settings name; nothing is loaded here."""

from __future__ import annotations

import logging
from pathlib import Path

from core.backends.base import ONNX, OPENVINO
from core.backends.loader import gpu_count
from core.checkpoints.checkpoint import SUFFIX, best_checkpoint, bundled_checkpoints
from core.errors import InputError

log = logging.getLogger("service")


def discover_models(sources: list[Path]) -> dict[str, Path]:
    """Return the checkpoint file of every model by its name.

    Args:
        sources: Checkpoint files (named by their stem), run directories (one model each, named after the directory: its best
            checkpoint), directories of these, and names of bundled checkpoints. If they contain nothing, all bundled
            checkpoints are returned.

    Raises:
        InputError: There is no checkpoint, or two have the same name.
    """
    models: dict[str, Path] = {}
    candidates = {source: _find_candidates(source) for source in sources}
    for found in candidates.values():
        for name, path in found:
            if name in models and not path.samefile(models[name]):
                raise InputError(
                    f"two models have the name {name!r}: {models[name]} and {path}; rename one of them, or remove it from"
                    " SEGMENT_CHECKPOINTS"
                )
            models[name] = path
    empty = [source for source, found in candidates.items() if not found]
    if models and empty:
        log.warning("SEGMENT_CHECKPOINTS: no checkpoint in %s", ", ".join(map(str, empty)))
    searched = ", ".join(map(str, sources))
    if not models and bundled_checkpoints():
        models = bundled_checkpoints()
        log.warning("no checkpoint in %s: serving the bundled ones: %s", searched, ", ".join(models))
    if not models:
        raise InputError(
            f"SEGMENT_CHECKPOINTS: no checkpoint in {searched}; train a model"
            " (python -m training train --model ddunet --data DIR), or specify a checkpoint file or a run directory"
        )
    return models


def _find_candidates(source: Path) -> list[tuple[str, Path]]:
    if source.is_file():
        return [(source.stem, source)]
    best = best_checkpoint(source)
    if best:
        return [best]
    if not source.exists() and str(source) in (bundled := bundled_checkpoints()):
        return [(str(source), bundled[str(source)])]
    children = sorted(source.iterdir()) if source.is_dir() else []
    files = [(child.stem, child) for child in children if child.is_file() and child.suffix == SUFFIX]
    return files + [best for child in children if (best := best_checkpoint(child))]


def resolve_devices(device: str, backend: str = "auto") -> list[str]:
    """Return the devices that the setting names, one worker for each.

    `auto` means all GPUs if there are several and the backend can use them.
    """
    names = [name.strip() for name in device.split(",") if name.strip()] or ["auto"]
    if names == ["auto"] and not backend.startswith((OPENVINO, ONNX)) and gpu_count() > 1:
        return [f"cuda:{index}" for index in range(gpu_count())]
    return names
