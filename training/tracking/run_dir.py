"""The run directory: configuration, history, checkpoints by epoch, and resume files.

Layout of `runs/NAME/`:
    config.json             configuration, every start of the run, and the trainings before it
    history.csv             one row per epoch
    history.earlier.csv     rows of the trainings that led to the weights of --init
    curves.png              plot of the history
    checkpoints/            epoch-EEEE.safetensors; best.safetensors and last.safetensors are hard links to two of them
    resume/                 EEEE-SSSSSS.safetensors: the state after EEEE epochs and SSSSSS steps of the next one
    tensorboard/            event files
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from core import __version__
from core.checkpoints import safetensors_io
from core.checkpoints.checkpoint import (
    SUFFIX,
    CheckpointMetadata,
    TrainingStage,
    first_nonfinite,
    read_checkpoint,
    write_checkpoint,
)
from core.checkpoints.safetensors_io import Metadata, Tensors
from core.data.labels import LabelSpace
from core.errors import CheckpointError, InputError, TrainingError
from core.runtime.atomic import link_atomically, makedirs_durable, remove_temporaries, write_atomically
from training.config import RUN_SCHEMA, TrainConfig, read_run_config
from training.tracking.history import INHERITED_HISTORY, Row, read_rows, read_table, write_table

MAX_RESUME_FILES = 2  # the newest one, and one to fall back to if that is damaged
# The score that selects the best checkpoint: unlike the mIoU over all classes, it does not drop to a fraction because of one
# stray pixel of a class that the labels do not contain.
SELECTION_METRIC = "miou_present"


def _name_numbers(path: Path) -> list[int]:
    """Return the numbers in a file name, to sort by: as text, epoch 10000 would come before epoch 9999."""
    return [int(number) for number in re.findall(r"\d+", path.stem)]


def _is_epoch_checkpoint(path: Path) -> bool:
    """Return whether a file is the checkpoint of an epoch, and not one derived from it such as `epoch-0001-fp16`."""
    return bool(re.fullmatch(r"epoch-\d+", path.stem))


def _is_readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class Lineage:
    """The trainings that led to the initial weights of a run, and the history files of their epochs."""

    stages: tuple[TrainingStage, ...] = ()
    histories: Sequence[Path] = ()


class RunDir:
    """Reads and writes a run directory; only the main process writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.resume = path / "resume"
        self.tensorboard = path / "tensorboard"
        self.history = path / "history.csv"
        self._fallback_reported = False  # whether a warning about a damaged resume file was printed

    def create(
        self,
        config: TrainConfig,
        start: Metadata,
        skipped: list[str],
        lineage: Lineage | None,
        held_out: Sequence[str] = (),
        schedule_start: int = 0,
    ) -> None:
        """Create the directories and write `config.json` and the inherited history.

        Args:
            start: Epoch, step and environment of this start; appended to the earlier ones.
            skipped: Files that --skip-bad leaves out.
            lineage: Origin of the initial weights; None if the run is resumed and has recorded it.
            held_out: Images of the training split that --val-fraction holds out.
            schedule_start: Epoch after which the learning-rate schedule starts.
        """
        for directory in (self.checkpoints, self.resume):
            makedirs_durable(directory)
        remove_temporaries(self.path, self.checkpoints, self.resume)
        previous = self._read_config()
        if lineage is not None:
            (self.path / INHERITED_HISTORY).unlink(missing_ok=True)
            rows, columns = read_table(*lineage.histories)
            if rows:
                write_table(self.path / INHERITED_HISTORY, rows, columns)
        document = {
            "schema_version": RUN_SCHEMA,
            "config": config.model_dump(mode="json", exclude={"resume"}),
            "skipped": skipped,
            "held_out": list(held_out),
            "schedule_start": schedule_start,
            "stages": previous.get("stages", []) if lineage is None else [stage.model_dump() for stage in lineage.stages],
            "starts": [*previous.get("starts", []), start],
            "code_version": __version__,
        }
        write_atomically(self.path / "config.json", [json.dumps(document, indent=2).encode() + b"\n"])

    def stages(self) -> tuple[TrainingStage, ...]:
        """Return the trainings before this run: those of the checkpoint that it was initialized from."""
        return tuple(TrainingStage.model_validate(stage) for stage in self._read_config().get("stages", []))

    def last_job_id(self) -> str | None:
        """Return the id of the launcher's job that last started the run."""
        starts = self._read_config().get("starts")
        return starts[-1].get("job") if starts else None

    def last_start(self) -> tuple[tuple[str, ...] | None, int | None, int]:
        """Return --data and --epochs of the last start, None if not recorded, and the epoch after which its schedule starts."""
        document = self._read_config()
        config = document.get("config", {})
        data = config.get("data")
        return (
            (data,) if isinstance(data, str) else data and tuple(data),
            config.get("epochs"),
            document.get("schedule_start", 0),
        )

    def _read_config(self) -> Metadata:
        return read_run_config(self.path)

    def save_epoch(self, epoch: int, metadata: CheckpointMetadata, tensors: Tensors, is_best: bool, keep: int | None) -> None:
        """Write the checkpoint of an epoch, update `last` (and `best`), and delete all but the newest `keep` checkpoints."""
        path = self.checkpoints / f"epoch-{epoch:04d}{SUFFIX}"
        write_checkpoint(path, metadata, tensors)
        link_atomically(path, self.checkpoints / f"last{SUFFIX}")
        if is_best:
            link_atomically(path, self.checkpoints / f"best{SUFFIX}")
        if keep is not None:
            for old in self._epoch_checkpoints(epoch)[:-keep]:
                old.unlink()  # best and last are hard links, so their data remains

    def _epoch_checkpoints(self, last_epoch: int) -> list[Path]:
        """Return the checkpoints up to `last_epoch`, oldest first: the run has fallen back before later ones."""
        files = sorted(filter(_is_epoch_checkpoint, self.checkpoints.glob(f"epoch-*{SUFFIX}")), key=_name_numbers)
        return [path for path in files if _name_numbers(path)[0] <= last_epoch]

    def save_resume(self, epoch: int, step: int, document: Metadata, tensors: Tensors) -> None:
        """Write the resume file for `epoch` finished epochs and `step` further steps, and delete all but the newest two.

        Raises:
            TrainingError: A tensor contains NaN or infinity.
        """
        nonfinite = first_nonfinite(tensors)
        if nonfinite:
            raise TrainingError(
                f"epoch {epoch}, step {step}: not saved, because {nonfinite} contains NaN or infinity; the previous checkpoint"
                " is intact"
            )
        safetensors_io.write(self.resume / f"{epoch:04d}-{step:06d}{SUFFIX}", document, tensors)
        for old in self._resume_files()[MAX_RESUME_FILES:]:
            old.unlink()

    @property
    def can_resume(self) -> bool:
        """Whether there is a resume file."""
        return bool(self._resume_files())

    def newest_resume(self) -> tuple[Path, Metadata, Tensors] | None:
        """Return the newest intact resume file, None if the run has not written one yet.

        A damaged file is renamed to `*.damaged` with a warning, and the one before it is used.

        Raises:
            TrainingError: All resume files are damaged, or they are missing although the run has finished epochs.
        """
        files = self._resume_files()
        damaged: list[Path] = []
        for path in files:
            try:
                document, tensors = safetensors_io.read(path)
            except CheckpointError as error:
                print(f"warning: {error}; trying the previous resume file", flush=True)
                self._fallback_reported = True
                if _is_readable(path):  # a file that can't be read at present may be intact
                    damaged.append(path)
                continue
            for old in damaged:
                old.replace(old.with_suffix(".damaged"))  # so that it does not count as one of the two to keep
            return path, document, tensors
        if files:
            raise TrainingError(
                f"{self.resume}: none of the {len(files)} resume files is intact; start a new run with another --run and,"
                " for the weights, the newest checkpoint as --init"
            )
        epochs = sum(map(_is_epoch_checkpoint, self.checkpoints.glob(f"epoch-*{SUFFIX}")))
        if epochs > 1 or len(self.read_history()) > 1 or any(self.resume.glob("*.damaged")):
            raise TrainingError(
                f"{self.resume}: contains no resume file, but the run has finished epochs; restore the files, or start a new"
                " run with another --run and, for the weights, the newest checkpoint as --init"
            )
        return None

    def _resume_files(self) -> list[Path]:
        """Return the resume files, newest first by the epoch and step in their names: clocks may jump."""
        return sorted(self.resume.glob(f"*{SUFFIX}"), key=_name_numbers, reverse=True) if self.resume.is_dir() else []

    def check_labels(self, labels: LabelSpace) -> None:
        """Check that the data has the classes that the run was trained on.

        Raises:
            InputError: The classes differ.
        """
        with suppress(CheckpointError):  # there is none yet, or it is damaged, which does not keep the run from resuming
            difference = read_checkpoint(self.checkpoints / f"last{SUFFIX}").metadata.labels.describe_difference(labels)
            if difference:
                raise InputError(
                    f"--data: the classes are not those of the run: {difference}; to train its weights on other classes, use"
                    " --init and another --run"
                )

    def append_history(self, row: Row) -> None:
        """Append the row of an epoch; the file is replaced atomically."""
        rows, columns = read_table(self.history)
        write_table(self.history, [*rows, row], list(dict.fromkeys([*columns, *row])))

    def read_history(self) -> list[Row]:
        """Return all rows, values as floats or None if undefined."""
        return read_rows(self.history)

    def truncate_after(self, epoch: int) -> None:
        """Drop the history after `epoch`, and make `last` and `best` links to checkpoints up to it.

        A resumed run trains the dropped epochs again. A link whose checkpoint --keep has deleted stays as it is.
        """
        # Parse the rows first, so that a file that is not a history raises before anything is changed.
        scores = {row["epoch"]: row.get(f"val_{SELECTION_METRIC}") or 0 for row in self.read_history()}
        rows, columns = read_table(self.history)
        kept = [row for row in rows if float(row["epoch"]) <= epoch]
        if len(kept) < len(rows):
            prefix = "" if self._fallback_reported else "warning: "
            intact = f"{len(rows)} epochs, but the newest intact resume file is of epoch {epoch}"
            print(f"{prefix}{self.history} has {intact}: the later epochs are trained again", flush=True)
        best = max(kept, key=lambda row: scores[float(row["epoch"])], default={})  # the first of equal scores
        for name, row in (("last", kept[-1] if kept else {}), ("best", best)):
            path = self.checkpoints / f"epoch-{int(float(row.get('epoch', 0))):04d}{SUFFIX}"
            if path.is_file():
                link_atomically(path, self.checkpoints / f"{name}{SUFFIX}")
        if columns:
            write_table(self.history, kept, columns)
