"""`history.csv`: a row an epoch, losses and scores; where it lies, how it is read and written, and legs end to end."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.runtime.files import write_atomically

Row = dict[str, Any]
EARLIER = "history.earlier.csv"  # in a run folder: the epochs of the trainings before it, where it began with --init


def history_beside(checkpoint: Path) -> Path:
    """Where the history of a lone checkpoint lies: beside it, under its name."""
    return checkpoint.with_name(f"{checkpoint.stem}.history.csv")


def histories_of(checkpoint: Path) -> list[Path]:
    """Where the epochs of all trainings that led to a checkpoint lie, in their order: beside the file under its name, or else
    in its run folder."""
    beside, run = history_beside(checkpoint), checkpoint.parent.parent
    in_run = checkpoint.parent.name == "checkpoints" and not beside.exists()
    return [run / EARLIER, run / "history.csv"] if in_run else [beside]


def read_table(*paths: Path) -> tuple[list[Row], list[str]]:
    """Rows of text by column, of one file after the other, and all columns in their order; nothing where there is no file."""
    rows: list[Row] = []
    names: dict[str, None] = {}
    for path in paths:
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                rows += reader
                names |= dict.fromkeys(reader.fieldnames or [])
    return rows, list(names)


def read_rows(*paths: Path) -> list[Row]:
    """The rows of histories, numbers as floats, None where a score is undefined; none where there is no file.

    Raises InputError where one is no history.
    """
    return [row for path in paths for row in _numbers(path)]


def _numbers(path: Path) -> list[Row]:
    try:
        rows, names = read_table(path)
        if any(not row.get("epoch") for row in rows) or (names and "epoch" not in names):
            raise ValueError
        return [{key: float(value) if value else None for key, value in row.items()} for row in rows]
    except (TypeError, ValueError):  # not text, not numbers
        raise InputError(f"{path}: not the history of a run: expected columns of numbers, such as epoch and val_loss") from None


def by_leg(rows: Sequence[Row]) -> list[list[Row]]:
    """Of trainings that stand end to end, the rows of each: every one counts its epochs anew."""
    starts = [n for n, row in enumerate(rows) if n == 0 or row["epoch"] <= rows[n - 1]["epoch"]]
    return [list(rows[start:end]) for start, end in pairwise([*starts, len(rows)])]


def write_table(path: Path, rows: list[Row], names: list[str]) -> None:
    """Write rows anew and atomically, so that no crash leaves half a row."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=names, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, [text.getvalue().encode()])
