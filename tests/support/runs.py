"""Read files of training runs."""

from __future__ import annotations

import csv
from pathlib import Path


def read_history(run_dir: Path) -> list[dict[str, str]]:
    """Return the rows of a run's history.csv, with all values as text."""
    with (run_dir / "history.csv").open() as file:
        return list(csv.DictReader(file))
