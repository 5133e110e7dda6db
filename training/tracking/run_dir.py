"""The run folder: configuration, history, checkpoints by epoch, and the files from which a run goes on."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from core import __version__
from core.checkpoints import safetensors_io
from core.checkpoints.checkpoint import SUFFIX, Card, Leg, not_finite, read_checkpoint, write_checkpoint
from core.checkpoints.safetensors_io import Document, Tensors
from core.data.labels import LabelSpace
from core.errors import CheckpointError, InputError, RunError
from core.runtime.files import link_atomically, make_folder, remove_temporaries, write_atomically
from training.config import TrainConfig
from training.tracking.history import EARLIER, Row, read_rows, read_table, write_table

KEPT_RESUME_FILES = 2
LEADING = "macro_iou_labelled"  # chooses the best: one stray pixel of an absent class should not


def _numbers(path: Path) -> list[int]:
    """The numbers in a file's name: text would put epoch 10000 before epoch 9999."""
    return [int(number) for number in re.findall(r"\d+", path.stem)]


def _is_epoch(path: Path) -> bool:
    """Whether a checkpoint is an epoch's own, and not what was exported beside it."""
    return bool(re.fullmatch(r"epoch-\d+", path.stem))


def _readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class Past:
    """The trainings that led to the weights which a run begins with, and the files that tell of their epochs."""

    legs: tuple[Leg, ...] = ()
    histories: Sequence[Path] = ()


class RunFolder:
    """`runs/NAME/` as the design lays it out; only the main process writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.resume = path / "resume"
        self.tensorboard = path / "tensorboard"
        self.history = path / "history.csv"
        self.warned = False  # whether the user knows that something is done again

    def create(self, config: TrainConfig, start: Document, skipped: list[str], past: Past | None) -> None:
        """Make the folders and write `config.json`: the configuration, what --skip-bad left out, every start, and the past of
        the weights; its epochs as `history.earlier.csv`. `past` is None where the run goes on and has them."""
        for folder in (self.checkpoints, self.resume):
            make_folder(folder)
        remove_temporaries(self.path, self.checkpoints, self.resume)
        before = self._document()
        if past is not None:
            (self.path / EARLIER).unlink(missing_ok=True)
            rows, names = read_table(*past.histories)
            if rows:
                write_table(self.path / EARLIER, rows, names)
        document = {
            "config": config.model_dump(mode="json", exclude={"resume"}),
            "skipped": skipped,
            "legs": before.get("legs", []) if past is None else [leg.model_dump() for leg in past.legs],
            "starts": [*before.get("starts", []), start],
            "code_version": __version__,
        }
        write_atomically(self.path / "config.json", [json.dumps(document, indent=2).encode() + b"\n"])

    def legs(self) -> tuple[Leg, ...]:
        """The trainings that came before this one: those of the checkpoint that it began with."""
        return tuple(Leg.model_validate(leg) for leg in self._document().get("legs", []))

    def job(self) -> str | None:
        """The launcher that started the run last."""
        starts = self._document().get("starts")
        return starts[-1].get("job") if starts else None

    def data(self) -> str | None:
        """Where the run's data lay when it was last gone on with; None where that is not told."""
        data: str | None = self._document().get("config", {}).get("data")
        return data

    def _document(self) -> Document:
        """What `config.json` tells; empty where there is none."""
        try:
            return dict(json.loads((self.path / "config.json").read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError):
            raise InputError(f"{self.path}: its config.json is not that of a run; choose another folder with --run") from None

    def save_epoch(self, epoch: int, card: Card, tensors: Tensors, best: bool, keep: int | None) -> None:
        """Write `epoch-EEEE`, point `last` (and `best`) to it and delete what `keep` leaves out."""
        path = self.checkpoints / f"epoch-{epoch:04d}{SUFFIX}"
        write_checkpoint(path, card, tensors)
        link_atomically(path, self.checkpoints / f"last{SUFFIX}")
        if best:
            link_atomically(path, self.checkpoints / f"best{SUFFIX}")
        if keep is not None:
            for old in self._epoch_files(epoch)[:-keep]:
                old.unlink()  # best and last are links of their own and stay

    def _epoch_files(self, up_to: int) -> list[Path]:
        """The checkpoints of the epochs up to this one, in their order: later ones are of a past that is done again."""
        files = sorted(filter(_is_epoch, self.checkpoints.glob(f"epoch-*{SUFFIX}")), key=_numbers)
        return [path for path in files if _numbers(path)[0] <= up_to]

    def save_resume(self, epoch: int, step: int, document: Document, tensors: Tensors) -> None:
        """Write everything that is needed to go on after `epoch` epochs and `step` steps; the newest two are kept.

        Raises RunError where a number in it is not finite.
        """
        broken = not_finite(tensors)
        if broken:
            raise RunError(f"epoch {epoch}, step {step}: not saved: {broken} is not finite; the checkpoint before it is whole")
        safetensors_io.write(self.resume / f"{epoch:04d}-{step:06d}{SUFFIX}", document, tensors)
        for old in self._resume_files()[KEPT_RESUME_FILES:]:
            old.unlink()

    @property
    def can_resume(self) -> bool:
        """Whether there is something to go on from."""
        return bool(self._resume_files())

    def newest_resume(self) -> tuple[Path, Document, Tensors] | None:
        """The newest whole resume file, None where none was written yet.

        A damaged one is told in a warning and set aside, and the one before is taken; where all are, raises RunError.
        """
        files = self._resume_files()
        damaged: list[Path] = []
        for path in files:
            try:
                document, tensors = safetensors_io.read(path)
            except CheckpointError as error:
                print(f"warning: {error}; trying the one before", flush=True)
                self.warned = True
                damaged += [path] * _readable(path)  # what can't be read now may be whole all the same
                continue
            for old in damaged:
                old.replace(old.with_suffix(".damaged"))  # or it would count as one of the two that are kept
            return path, document, tensors
        if files:
            raise RunError(
                f"{self.resume}: none of its {len(files)} files is whole; start again with another --run, from the"
                " newest checkpoint with --init"
            )
        epochs = sum(map(_is_epoch, self.checkpoints.glob(f"epoch-*{SUFFIX}")))
        if epochs > 1 or len(self.read_history()) > 1 or any(self.resume.glob("*.damaged")):
            raise RunError(f"{self.resume}: holds nothing to go on from, but the run has finished epochs; bring its files back,"
                           " or start again with another --run, from the newest checkpoint with --init")  # fmt: skip
        return None

    def _resume_files(self) -> list[Path]:
        """Newest first, by the epoch and step in the name: clocks may jump."""
        return sorted(self.resume.glob(f"*{SUFFIX}"), key=_numbers, reverse=True) if self.resume.is_dir() else []

    def require_labels(self, labels: LabelSpace) -> None:
        """Raise InputError where the run has learned other classes than those of the data that it is to go on with."""
        with suppress(CheckpointError):  # none yet, or a damaged one, of which others tell
            difference = read_checkpoint(self.checkpoints / f"last{SUFFIX}").card.labels.difference(labels)
            if difference:
                raise InputError(f"--data: other classes than the run has learned: {difference}; to begin with its weights:"
                                 " --init and another --run")  # fmt: skip

    def append_history(self, row: Row) -> None:
        """Add an epoch's row as the epoch ends; the file is written anew, so that no crash leaves half a row."""
        rows, names = read_table(self.history)
        write_table(self.history, [*rows, row], names or list(row))

    def read_history(self) -> list[Row]:
        """All rows, numbers as floats, None where a score is undefined."""
        return read_rows(self.history)

    def go_back(self, epoch: int) -> None:
        """Drop the rows after `epoch`, and let `last` and `best` be of those before: a run that goes on makes them again.

        Where --keep has deleted a checkpoint, the link stays as it is.
        """
        scores = {row["epoch"]: row.get(f"val_{LEADING}") or 0 for row in self.read_history()}  # raises where it is no history
        rows, names = read_table(self.history)
        kept = [row for row in rows if float(row["epoch"]) <= epoch]
        if len(kept) < len(rows):
            kind = "" if self.warned else "warning: "
            told = f"{len(rows)} epochs, the newest whole resume file {epoch}"
            print(f"{kind}{self.history} tells of {told}: what comes after is done again", flush=True)
        best = max(kept, key=lambda row: scores[float(row["epoch"])], default={})  # the first of equals
        for name, row in (("last", kept[-1] if kept else {}), ("best", best)):
            path = self.checkpoints / f"epoch-{int(float(row.get('epoch', 0))):04d}{SUFFIX}"
            if path.is_file():
                link_atomically(path, self.checkpoints / f"{name}{SUFFIX}")
        if names:
            write_table(self.history, kept, names)
