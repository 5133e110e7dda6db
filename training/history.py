"""`history.csv`: a row an epoch, losses and scores; where it lies, how it is read and written."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.files import write_atomically

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows of a history, numbers as floats, None where a score is undefined; none where there is no file.

    Raises InputError where it is no history.
    """
    try:
        rows, names = read_table(path)
        if names and "epoch" not in names:
            raise ValueError
        return [{key: float(value) if value else None for key, value in row.items()} for row in rows]
    except (TypeError, ValueError):  # not text, not numbers
        raise InputError(f"{path}: not the history of a run: expected columns of numbers, such as epoch and val_loss") from None


def history_beside(checkpoint: Path) -> Path:
    """Where the history of a lone checkpoint lies: beside it, under its name."""
    return checkpoint.with_name(f"{checkpoint.stem}.history.csv")


def history_of(checkpoint: Path) -> Path:
    """Where the history of a checkpoint's run lies: beside the file under its name, or else in its run folder."""
    beside = history_beside(checkpoint)
    in_run = checkpoint.parent.name == "checkpoints" and not beside.exists()
    return checkpoint.parent.parent / "history.csv" if in_run else beside


def read_table(path: Path) -> tuple[list[Row], list[str]]:
    """Rows of text by column, and the columns in their order; nothing where there is no file."""
    if not path.exists():
        return [], []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        return list(reader), list(reader.fieldnames or [])


def write_table(path: Path, rows: list[Row], names: list[str]) -> None:
    """Write rows anew and atomically, so that no crash leaves half a row."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=names, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, [text.getvalue().encode()])
