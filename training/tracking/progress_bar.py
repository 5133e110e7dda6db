"""Progress bars: animated on a terminal, an occasional line when the output goes to a file."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress_bar(title: str, enabled: bool = True, items: Iterable[Any] | None = None, **options: Any) -> tqdm[Any]:
    """Return a tqdm bar on standard error that is cleared when it closes.

    Args:
        enabled: Draw the bar; true on the main process only.
        items: What to iterate over; without it, the caller updates the bar.
        **options: Further arguments of `tqdm`, such as `total` and `unit`.
    """
    is_terminal = sys.stderr.isatty()
    interval = 0.1 if is_terminal else 30.0  # seconds between updates
    return tqdm(
        items,
        title,
        leave=False,
        disable=not enabled,
        dynamic_ncols=is_terminal,
        mininterval=interval,
        maxinterval=30,
        **options,
    )
