"""What training and serving must agree on: labels, models, preprocessing, metrics, checkpoints and masks.

>>> from core import Segmenter
>>> result = Segmenter("ddunet")("street.jpg")
>>> result.save("mask.png")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.result import Result
    from core.segmenter import Segmenter

__version__ = "0.1.0"
__all__ = ["Result", "Segmenter", "__version__"]
PUBLIC = {"Segmenter": "core.segmenter", "Result": "core.result"}


def __getattr__(name: str) -> Any:
    """Import the public names when they are asked for: most of this room's files need little of the rest."""
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)
