"""What training and serving must agree on: labels, models, preprocessing, metrics, checkpoints and masks.

>>> from core import Segmenter
>>> result = Segmenter("ddunet")("street.jpg")
>>> result.save("mask.png")
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.inference.result import Result
    from core.inference.segmenter import Segmenter

__version__ = "0.1.0"
__all__ = ["Result", "Segmenter", "__version__"]
PUBLIC = {"Segmenter": "core.inference.segmenter", "Result": "core.inference.result"}


def not_installed(error: ModuleNotFoundError) -> str:
    """What a command says where a package is not there: most often the virtual environment is not active.

    Raises the error where it is a part of a package, or of this project, that is missing.
    """
    if not error.name or "." in error.name or error.name in ("core", "training", "service"):
        raise error
    return (
        f"error: {error.name} is not installed for this Python ({sys.executable}); in the project's folder"
        " `. .venv/bin/activate` activates the environment that has it, and `make setup` makes that"
    )


def __getattr__(name: str) -> Any:
    """Import the public names when they are asked for: most of this room's files need little of the rest."""
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)
