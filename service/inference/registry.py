"""The models that the service serves, by name: found at start, loaded on first use, the least recently used let go."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.backends import OPENVINO, TORCH, check_weights, choose_backend, gpus
from core.checkpoints.checkpoint import SUFFIX, Card, Checkpoint, best_of, read_checkpoint, shipped
from core.checkpoints.exported import files_beside
from core.errors import CheckpointError, InputError
from core.inference.segmenter import Segmenter
from core.runtime.files import Stamp, stamp
from service.api.problems import Problem
from service.settings import Settings

log = logging.getLogger("service")
Stamps = tuple[Stamp | None, ...]  # of a checkpoint and of the artefacts beside it


@dataclass
class Model:
    """A name, its file, and what the file said when it was last read: its card and digest, or what is wrong with it.

    `backend` and `digest` are of what answers: the checkpoint itself, or the artefact beside it.
    """

    name: str
    path: Path
    root: Path  # the source that it was found in
    card: Card | None = None
    checkpoint: str = ""  # its digest
    backend: str = ""
    digest: str = ""
    error: str | None = None
    bad: Stamps | None = None  # of the files that the error is of


@dataclass(frozen=True)
class Loaded:
    """A model ready to answer, with the digest of what was loaded."""

    name: str
    digest: str
    segmenters: tuple[Segmenter, ...]  # one for each device
    card: Card
    checkpoint: str  # its digest

    @property
    def architecture(self) -> str:
        """For reports."""
        return self.card.architecture.name

    @property
    def segmenter(self) -> Segmenter:
        """For what needs no device, and for what is told of all."""
        return self.segmenters[0]


class Models:
    """Finds models by the settings' rules. Raises InputError: nothing found, a name met twice, an unknown default."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.devices = find_devices(settings.device, settings.backend)
        mixed = len({device == "cpu" for device in self.devices}) > 1
        self.backend = TORCH if mixed and settings.backend == "auto" else settings.backend  # what both can run
        self.models = {
            name: Model(name, path, next((s for s in settings.checkpoints if path.is_relative_to(s)), path))
            for name, path in find_models(settings.checkpoints).items()
        }
        self.default = settings.model or next(iter(self.models))
        if self.default not in self.models:
            raise InputError(f"SEGMENT_MODEL: no model {self.default!r}; found: {', '.join(self.models)}")
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        self._lock = threading.Lock()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loading")

    def inspect(self) -> None:
        """Read every file once, so that `/models` tells scores and faults before a model is asked for."""
        for model in self.models.values():
            if model.card is None and model.error is None:
                with suppress(Problem), self._blamed(model):
                    _require_inside(model)
                    checkpoint = read_checkpoint(model.path, model.name)
                    check_weights(checkpoint)
                    self._told_of(model, checkpoint)

    def ready(self, name: str | None = None) -> Loaded | None:
        """The model where it is loaded already, at once."""
        return self._recent(name or self.default)

    def loaded(self) -> list[Loaded]:
        """All that are in memory."""
        with self._lock:
            return list(self._loaded.values())

    async def load(self, name: str | None = None) -> Loaded:
        """`get`, in a thread of its own: a model that takes long to load keeps no other work from its threads."""
        if ready := self.ready(name):
            return ready
        self._require_usable(name or self.default)  # here already: not behind another model that takes long
        return await asyncio.get_running_loop().run_in_executor(self._loader, self.get, name)

    def loading(self, name: str) -> Future[Loaded]:
        """`load`, for a thread. Whatever reads a file does so in one thread: else what was read before a reload could take the
        place of what was read at it."""
        return self._loader.submit(self.get, name)

    def get(self, name: str | None = None) -> Loaded:
        """The model, loaded; slow the first time. Raises Problem: 404 `unknown_model`, 503 `model_unusable`."""
        name = name or self.default
        ready = self._recent(name)
        if ready is None:
            self._require_usable(name)
            ready = self._load(self.models[name])
            self.replace(ready)
        return ready

    def _require_usable(self, name: str) -> None:
        if name not in self.models:
            raise self._unknown()
        model = self.models[name]
        if model.bad and model.bad == _stamps(model.path):  # to read it again for each request would keep all others waiting
            raise self._unusable(model)

    async def read_again(self, name: str) -> Loaded:
        """The model as its file is now, not yet in place of the one that answers. Raises as `get` does."""
        if name not in self.models:
            raise self._unknown()

        return await asyncio.get_running_loop().run_in_executor(self._loader, self._load, self.models[name])

    def replace(self, fresh: Loaded) -> None:
        """Let requests that come from now on be answered by this one; those inside keep theirs."""
        model, backend = self.models[fresh.name], fresh.segmenter.backend
        with self._lock:
            model.card, model.checkpoint, model.error, model.bad = fresh.card, fresh.checkpoint, None, None
            model.backend, model.digest = backend.name, backend.digest
            self._loaded[fresh.name] = fresh
            self._loaded.move_to_end(fresh.name)
            while len(self._loaded) > self.settings.max_loaded:
                others = [name for name in self._loaded if name != fresh.name]
                # the oldest, but rather not one whose file has gone bad since it was read: it could not be read again
                self._loaded.pop(next((name for name in others if not self.models[name].error), others[0]))

    def _unknown(self) -> Problem:
        return Problem("unknown_model", f"there is no model of this name; known: {', '.join(self.models)}")

    def _recent(self, name: str) -> Loaded | None:
        with self._lock:
            if name in self._loaded:
                self._loaded.move_to_end(name)
            return self._loaded.get(name)

    def _load(self, model: Model) -> Loaded:
        with self._blamed(model):
            _require_inside(model)
            checkpoint = read_checkpoint(model.path, model.name)
            first = Segmenter(checkpoint, self.devices[0], self.backend)
            # whichever worker answers, the reply names one back end
            others = (Segmenter(checkpoint, device, first.backend.name) for device in self.devices[1:])
            segmenters = (first, *others)
        return Loaded(model.name, first.backend.digest, segmenters, checkpoint.card, checkpoint.digest)

    @contextmanager
    def _blamed(self, model: Model) -> Iterator[None]:
        """What goes wrong with a model's file is noted as its error. Raises Problem; InputError where a setting is wrong."""
        stamps: Stamps | None = _stamps(model.path)  # before they are read: others may take their place meanwhile
        try:
            yield
            return
        except CheckpointError as error:
            model.error = str(error)
            if isinstance(error.__context__, OSError):
                stamps = None  # what was wrong is not in the files: leave to read them, for example
        except InputError:
            raise  # a setting is wrong, not the model
        except Exception as error:  # out of memory, a driver's fault: this model's trouble, not the service's
            log.exception("the model %s could not be loaded", model.name)
            model.error = f"{type(error).__name__}: the service's log holds the rest"
            stamps = None  # it may not be the file's fault
        model.bad = stamps
        raise self._unusable(model)

    def _unusable(self, model: Model) -> Problem:
        return Problem("model_unusable", f"the model {model.name} can't be used; GET /models tells why")

    def _told_of(self, model: Model, checkpoint: Checkpoint) -> None:
        model.card, model.checkpoint = checkpoint.card, checkpoint.digest
        model.backend, model.digest = choose_backend(checkpoint, self.devices[0], self.backend)

    def describe(self) -> dict[str, Any]:
        """What `GET /models` answers."""
        return {"default": self.default, "models": [self._describe(model) for model in self.models.values()]}

    def describe_one(self, name: str) -> dict[str, Any]:
        """One of them."""
        return self._describe(self.models[name])

    def _describe(self, model: Model) -> dict[str, Any]:
        card = model.card
        loaded = self._loaded.get(model.name)
        return {
            "name": model.name,
            "architecture": card and card.architecture.name,
            "width": card and card.architecture.width,
            "labels": card
            and {
                "name": card.labels.name,
                "classes": [
                    {"name": name, "colour": list(colour)}
                    for name, colour in zip(card.labels.names, card.labels.colours, strict=True)
                ],
            },
            "preprocess": card and card.preprocess.model_dump(mode="json"),
            "data": card and card.data,
            "epoch": card and card.epoch,
            "scores": card and card.scores,
            "scored_on": card and card.scored_on,
            "legs": card and [leg.model_dump(mode="json") for leg in card.legs],
            "licence": card and card.licence,
            "limits": card and card.limits,
            "checkpoint": model.checkpoint or None,
            "digest": model.digest or None,
            "backend": model.backend or None,
            "loaded": loaded is not None,
            "devices": loaded and [segmenter.backend.device for segmenter in loaded.segmenters],
            "error": model.error,
        }


def _stamps(checkpoint: Path) -> Stamps:
    return tuple(stamp(path) for path in (checkpoint, *files_beside(checkpoint)))


def _require_inside(model: Model) -> None:
    """Raise CheckpointError where a link leads out of the folder that the operator named; a file that he named may be one."""
    if model.root.is_dir() and not model.path.resolve().is_relative_to(model.root.resolve()):
        raise CheckpointError(f"{model.path}: a link that leads out of {model.root}; name its target in SEGMENT_CHECKPOINTS")


def find_devices(wish: str, backend: str = "auto") -> list[str]:
    """The devices that a setting names, one worker for each; `auto` is all GPUs where there are several and torch runs."""
    names = [name.strip() for name in wish.split(",") if name.strip()] or ["auto"]
    return (
        [f"cuda:{n}" for n in range(gpus())] if names == ["auto"] and not backend.startswith(OPENVINO) and gpus() > 1 else names
    )


def find_models(sources: list[Path]) -> dict[str, Path]:
    """Name -> file. A run folder is one model, named after the folder, served from `best`; a lone file is named by its
    stem; a folder of these gives all of them. Where nothing is found, the shipped ones."""
    found: dict[str, Path] = {}
    candidates = {source: _candidates(source) for source in sources}
    for held in candidates.values():
        for name, path in held:
            if name in found and not path.samefile(found[name]):
                raise InputError(f"the model name {name!r} is met twice: {found[name]} and {path}; rename or leave out one")
            found[name] = path
    empty = [source for source, held in candidates.items() if not held]
    if found and empty:
        log.warning("SEGMENT_CHECKPOINTS: no checkpoint in %s", ", ".join(map(str, empty)))
    looked = ", ".join(map(str, sources))
    if not found and shipped():
        found = shipped()
        log.warning("no checkpoint in %s: serving those that come with the project: %s", looked, ", ".join(found))
    if not found:
        raise InputError(
            f"SEGMENT_CHECKPOINTS: nothing to serve in {looked}; train a model first"
            " (python -m training train --model ddunet --data DIR), or name a checkpoint file or run folder"
        )
    return found


def _candidates(source: Path) -> list[tuple[str, Path]]:
    if source.is_file():
        return [(source.stem, source)]
    best = best_of(source)
    if best:
        return [best]
    children = sorted(source.iterdir()) if source.is_dir() else []
    files = [(child.stem, child) for child in children if child.is_file() and child.suffix == SUFFIX]
    return files + [best for child in children if (best := best_of(child))]
