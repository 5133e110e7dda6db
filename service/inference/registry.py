"""The model registry: models by name, loaded on first use; the least recently used are evicted."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from core.backends.base import TORCH
from core.backends.loader import check_weights, resolve_backend
from core.checkpoints.checkpoint import CheckpointMetadata, read_checkpoint, read_metadata
from core.checkpoints.exported import export_files
from core.errors import CheckpointError, InputError
from core.inference.segmenter import Segmenter
from core.runtime.files import FileVersion, file_version
from service.api.problems import ProblemError
from service.inference.discovery import discover_models, resolve_devices
from service.settings import Settings

SCORES_TIMEOUT_S = 2.0  # for reading the scores of all models at the start; a drive may hang

log = logging.getLogger("service")
FileVersions = tuple[FileVersion | None, ...]  # the versions of a checkpoint and of the exported models beside it


@dataclass
class ModelEntry:
    """A model by name, whether it is loaded or not.

    Attributes:
        name: Name of the model.
        path: Its checkpoint file.
        root: The entry of SEGMENT_CHECKPOINTS that contains the file.
        metadata: Metadata of the checkpoint when it was last read, or None.
        checkpoint: Digest of the checkpoint.
        backend: Name of the backend that serves the model.
        digest: Digest of the served weights: the checkpoint, or an exported model beside it.
        error: Why the model can't be used, or None.
        failed_versions: Versions of the files that caused the error, or None if the cause is not in the files.
    """

    name: str
    path: Path
    root: Path
    metadata: CheckpointMetadata | None = None
    checkpoint: str = ""
    backend: str = ""
    digest: str = ""
    error: str | None = None
    failed_versions: FileVersions | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory.

    Attributes:
        name: Name of the model.
        digest: Digest of the served weights.
        segmenters: The model on each device.
        metadata: Metadata of the checkpoint.
        checkpoint: Digest of the checkpoint.
    """

    name: str
    digest: str
    segmenters: tuple[Segmenter, ...]
    metadata: CheckpointMetadata
    checkpoint: str

    @property
    def architecture(self) -> str:
        """Name of the architecture."""
        return self.metadata.architecture.name

    @property
    def segmenter(self) -> Segmenter:
        """The model on the first device, for what does not depend on the device."""
        return self.segmenters[0]


class ModelRegistry:
    """All models that the settings name.

    Files are read in one thread, so that a model that takes long to load occupies no other threads, and what was read before a
    reload never replaces what was read by it.

    Raises:
        InputError: There is no model, two have the same name, or the default model does not exist.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.devices = resolve_devices(settings.device, settings.backend)
        is_mixed = len({device == "cpu" for device in self.devices}) > 1
        self.backend = TORCH if is_mixed and settings.backend == "auto" else settings.backend  # CPU and GPU both support torch.
        self.models = {
            name: ModelEntry(name, path, next((s for s in settings.checkpoints if path.is_relative_to(s)), path))
            for name, path in discover_models(settings.checkpoints).items()
        }
        self.default = settings.model or self._choose_default()
        if self.default not in self.models:
            raise InputError(f"SEGMENT_MODEL: there is no model {self.default!r}; expected one of {', '.join(self.models)}")
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()
        self._lock = threading.Lock()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loading")

    def _choose_default(self) -> str:
        """Return the model with the highest mIoU of those that were scored on the same data as the first one.

        Scores on different data can't be compared. It is the first one itself if that has no score, or can't be read in
        SCORES_TIMEOUT_S. Only the headers of the files are read: loading the default model verifies all of its file.
        """
        first = next(iter(self.models))
        if len(self.models) == 1:
            return first
        found: dict[str, CheckpointMetadata] = {}

        def read_headers() -> None:
            for name, entry in self.models.items():
                with suppress(CheckpointError, OSError):
                    _check_inside_root(entry)
                    found[name] = read_metadata(entry.path)

        reading = threading.Thread(target=read_headers, name="headers", daemon=True)
        reading.start()
        reading.join(SCORES_TIMEOUT_S)
        metadata = dict(found)  # Copied, because the thread may still be reading.
        if reading.is_alive():
            unread = len(self.models) - len(metadata)
            log.warning(f"default model: the scores of {unread} models can't be read in time; it is chosen without them")
        scored_on = metadata[first].scored_on if first in metadata else None
        if scored_on is None:
            return first
        scores = {name: _miou(model) for name, model in metadata.items() if model.scored_on == scored_on}
        return max(scores, key=lambda name: scores[name])

    async def read_all_metadata(self) -> None:
        """Read every checkpoint once, so that `/models` reports scores and errors before a model is requested."""
        for entry in self.models.values():  # One at a time, so that a model that is requested meanwhile is loaded next.
            await asyncio.get_running_loop().run_in_executor(self._loader, self._read_metadata, entry)

    def _read_metadata(self, entry: ModelEntry) -> None:
        if entry.metadata is not None or entry.error is not None:
            return
        with suppress(ProblemError), self._recording_errors(entry):
            _check_inside_root(entry)
            checkpoint = read_checkpoint(entry.path, entry.name)
            check_weights(checkpoint)
            backend, digest = resolve_backend(checkpoint, self.devices[0], self.backend)
            with self._lock:
                if entry.metadata is None:  # A reloaded model may have been activated meanwhile.
                    entry.metadata, entry.checkpoint = checkpoint.metadata, checkpoint.digest
                    entry.backend, entry.digest = backend, digest

    def loaded(self) -> list[LoadedModel]:
        """Return all loaded models."""
        with self._lock:
            return list(self._loaded.values())

    def find_loaded(self, name: str) -> LoadedModel | None:
        """Return a model if it is loaded, without counting as a use."""
        return self._loaded.get(name)

    def get_if_loaded(self, name: str | None = None) -> LoadedModel | None:
        """Return a model (the default one if `name` is None) if it is loaded, and mark it as the most recently used."""
        name = name or self.default
        with self._lock:
            if name in self._loaded:
                self._loaded.move_to_end(name)
            return self._loaded.get(name)

    async def load(self, name: str | None = None) -> LoadedModel:
        """Return a model, loaded if necessary. Raises as `get` does."""
        if model := self.get_if_loaded(name):
            return model
        self.check_usable(name or self.default)  # Checked here too, to fail before models that are still being loaded.
        return await asyncio.get_running_loop().run_in_executor(self._loader, self.get, name)

    def submit_load(self, name: str) -> Future[LoadedModel]:
        """Load a model if necessary, for callers in a thread."""
        return self._loader.submit(self.get, name)

    def get(self, name: str | None = None) -> LoadedModel:
        """Return a model, loaded in this thread if necessary. Raises ProblemError: 404 `unknown_model`, 503
        `model_unavailable`."""
        name = name or self.default
        model = self.get_if_loaded(name)
        if model is None:
            self.check_usable(name)
            model = self._load(self.models[name])
            self.activate(model)
        return model

    async def reload(self, name: str) -> LoadedModel:
        """Read a model's file again and return the new model, which `activate` puts into use. Raises as `get` does."""
        if name not in self.models:
            raise self._unknown_model_error()
        return await asyncio.get_running_loop().run_in_executor(self._loader, self._load, self.models[name])

    def activate(self, model: LoadedModel) -> None:
        """Use this model for new requests; those in flight keep the one they began with. Evicts models beyond the limit."""
        entry, backend = self.models[model.name], model.segmenter.backend
        with self._lock:
            entry.metadata, entry.checkpoint, entry.error, entry.failed_versions = model.metadata, model.checkpoint, None, None
            entry.backend, entry.digest = backend.name, backend.digest
            self._loaded[model.name] = model
            self._loaded.move_to_end(model.name)
            while len(self._loaded) > self.settings.max_loaded:
                others = [name for name in self._loaded if name != model.name]
                # Prefer models whose file is usable, because the others could not be loaded again.
                self._loaded.pop(next((name for name in others if not self.models[name].error), others[0]))

    def check_usable(self, name: str) -> None:
        """Raise ProblemError if a model does not exist, or if its files have not changed since they failed to load."""
        if name not in self.models:
            raise self._unknown_model_error()
        entry = self.models[name]
        if entry.failed_versions and entry.failed_versions == _file_versions(entry.path):
            raise self._unavailable_error(entry)

    def _load(self, entry: ModelEntry) -> LoadedModel:
        with self._recording_errors(entry):
            _check_inside_root(entry)
            checkpoint = read_checkpoint(entry.path, entry.name)
            first = Segmenter(checkpoint, self.devices[0], self.backend)
            # All devices use the same backend, because the response names one.
            others = (Segmenter(checkpoint, device, first.backend.name) for device in self.devices[1:])
            segmenters = (first, *others)
        return LoadedModel(entry.name, first.backend.digest, segmenters, checkpoint.metadata, checkpoint.digest)

    @contextmanager
    def _recording_errors(self, entry: ModelEntry) -> Iterator[None]:
        """Record an exception as the error of a model. Raises ProblemError; InputError if a setting is wrong."""
        versions: FileVersions | None = _file_versions(entry.path)  # Read first, because the files may be replaced meanwhile.
        try:
            yield
            return
        except CheckpointError as error:
            entry.error = str(error)
            if isinstance(error.__context__, OSError):
                versions = None  # The cause is not in the files: for example, missing permission.
        except InputError:
            raise  # A setting is wrong, not the model.
        except Exception as error:  # Out of memory or a driver error: only this model is affected.
            log.exception("the model %s could not be loaded", entry.name)
            entry.error = f"{type(error).__name__}; see the log of the service"
            versions = None
        entry.failed_versions = versions
        raise self._unavailable_error(entry)

    def _unknown_model_error(self) -> ProblemError:
        return ProblemError("unknown_model", f"there is no such model; expected one of {', '.join(self.models)}")

    def _unavailable_error(self, entry: ModelEntry) -> ProblemError:
        return ProblemError("model_unavailable", f"the model {entry.name} can't be used; GET /models has the reason")


def _miou(metadata: CheckpointMetadata) -> float:
    """Return the mIoU over the classes in the labels, as the web page shows it; -1 if it is unknown."""
    score = metadata.scores.get("miou_present")
    return score if score is not None and math.isfinite(score) else -1.0


def _file_versions(checkpoint: Path) -> FileVersions:
    return tuple(file_version(path) for path in (checkpoint, *export_files(checkpoint)))


def _check_inside_root(entry: ModelEntry) -> None:
    """Raise CheckpointError if a symbolic link leads out of a directory in SEGMENT_CHECKPOINTS.

    An entry of SEGMENT_CHECKPOINTS that is a file may itself be a link.
    """
    if entry.root.is_dir() and not entry.path.resolve().is_relative_to(entry.root.resolve()):
        raise CheckpointError(
            f"{entry.path}: is a symbolic link to a file outside of {entry.root}; add its target to SEGMENT_CHECKPOINTS"
        )
