"""Progress bars: lively in a terminal, a line now and then where the output goes to a file."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def bar(title: str, shown: bool = True, items: Iterable[Any] | None = None, **options: Any) -> tqdm[Any]:
    """A tqdm bar on standard error that leaves no line behind; `shown` is for the main process only."""
    lively = sys.stderr.isatty()
    interval = 0.1 if lively else 30.0
    return tqdm(
        items, title, leave=False, disable=not shown, dynamic_ncols=lively, mininterval=interval, maxinterval=30, **options
    )
