"""Code that training and serving share: labels, models, preprocessing, inference, metrics and checkpoints.

>>> from core import Segmenter
>>> result = Segmenter("ddunet")("street.jpg")
>>> result.save("mask.png")
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.inference.result import SegmentationResult
    from core.inference.segmenter import Segmenter

__version__ = "0.1.0"
__all__ = ["SegmentationResult", "Segmenter", "__version__"]
LAZY_EXPORTS = {"Segmenter": "core.inference.segmenter", "SegmentationResult": "core.inference.result"}

# OpenVINO and NNCF report their use over the network as soon as they are imported; without this package they do not.
# The entry is set here because every program of this project imports `core` before either of them.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

# OpenMP reads this when torch is imported. By default torch's threads spin at every barrier. On CPUs that other processes use
# as well, they then wait for each other, and training takes several times as long; on idle CPUs sleeping costs nothing.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def missing_dependency_message(error: ModuleNotFoundError) -> str:
    """Return the error message of a command that fails because a package is not installed.

    The usual cause is that the virtual environment is not active.

    Raises:
        ModuleNotFoundError: `error` itself, if the missing module is a submodule or belongs to this project: then the
            installation is broken, and the traceback is what helps.
    """
    if not error.name or "." in error.name or error.name in ("core", "training", "service"):
        raise error
    return (
        f"error: {error.name} is not installed for this Python ({sys.executable}); in the project directory, run"
        " `. .venv/bin/activate` to activate the virtual environment, or `make setup` to create it first"
    )


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: `import core` must stay fast, and most modules need little of the rest."""
    if name not in LAZY_EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(LAZY_EXPORTS[name]), name)
