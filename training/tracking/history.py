"""`history.csv`: one row per epoch with losses and scores; how it is found, read and written."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from core.checkpoints.legacy import HISTORY_KEYS, rename_keys
from core.errors import InputError
from core.runtime.atomic import write_atomically

Row = dict[str, Any]
INHERITED_HISTORY = "history.earlier.csv"  # in a run directory: the epochs that led to the weights of --init


def history_beside(checkpoint: Path) -> Path:
    """Return the path of the history that belongs to a checkpoint outside a run directory: `NAME.history.csv` next to it."""
    return checkpoint.with_name(f"{checkpoint.stem}.history.csv")


def history_files(checkpoint: Path) -> list[Path]:
    """Return the paths of the histories that led to a checkpoint, oldest first; a path may not exist.

    A history next to the file takes precedence over those of its run directory.
    """
    sidecar, run_dir = history_beside(checkpoint), checkpoint.parent.parent
    in_run_dir = checkpoint.parent.name == "checkpoints" and not sidecar.exists()
    return [run_dir / INHERITED_HISTORY, run_dir / "history.csv"] if in_run_dir else [sidecar]


def read_table(*paths: Path) -> tuple[list[Row], list[str]]:
    """Return the concatenated rows of CSV files, values as text, and the union of their columns in order.

    Files that do not exist are skipped; columns are renamed to those of schema version 2.
    """
    rows: list[Row] = []
    columns: dict[str, None] = {}
    for path in paths:
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                rows += [rename_keys(row, HISTORY_KEYS) for row in reader]
                columns |= dict.fromkeys(HISTORY_KEYS.get(name, name) for name in reader.fieldnames or [])
    return rows, list(columns)


def read_rows(*paths: Path) -> list[Row]:
    """Return the concatenated rows of histories, values as floats or None if undefined. Files that do not exist are skipped.

    Raises:
        InputError: A file is not a history.
    """
    return [row for path in paths for row in _read_numbers(path)]


def _read_numbers(path: Path) -> list[Row]:
    try:
        rows, columns = read_table(path)
        if any(not row.get("epoch") for row in rows) or (columns and "epoch" not in columns):
            raise ValueError
        return [{key: float(value) if value else None for key, value in row.items()} for row in rows]
    except (TypeError, ValueError):  # not text, not numbers, or cells without a column
        raise InputError(
            f"{path}: not a training history; expected a CSV file with columns of numbers such as epoch and val_loss"
        ) from None


def split_stages(rows: Sequence[Row]) -> list[list[Row]]:
    """Split the rows of consecutive trainings into one list per training: each numbers its epochs from 1."""
    starts = [n for n, row in enumerate(rows) if n == 0 or row["epoch"] <= rows[n - 1]["epoch"]]
    return [list(rows[start:end]) for start, end in pairwise([*starts, len(rows)])]


def write_table(path: Path, rows: list[Row], columns: list[str]) -> None:
    """Replace a CSV file atomically, so that a crash never leaves half a row."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, [text.getvalue().encode()])
