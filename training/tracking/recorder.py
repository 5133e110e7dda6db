"""What an epoch leaves for its readers: checkpoint, history row, curves, TensorBoard and a line on the terminal."""

from __future__ import annotations

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import nn

from core.backends.torch_cpu import to_tensors
from core.checkpoints.checkpoint import Architecture, Card, Leg, read_checkpoint, summary
from core.checkpoints.exported import beside, read_artefact
from core.data.datasets import Dataset, described
from core.errors import CheckpointError
from core.evaluation import metrics
from core.inference.segmenter import Segmenter
from training.config import TrainConfig
from training.engine.validation import FittedSegmenter, Validation
from training.tracking.curves import CROSS_ENTROPY, draw_curves
from training.tracking.history import Row
from training.tracking.run_dir import LEADING, RunFolder
from training.tracking.tensorboard import Board, picture_strip

DRAWING_SHARE = 0.05  # of the time, at most: drawing is Python's work, for which the other threads of the process wait


@dataclass
class Trained:
    """What an epoch of training counted, over all ranks."""

    loss: float  # of the objective, a mean over the valid pixels
    confusion: metrics.Counts  # of the augmented crops
    learning_rate: float  # of the last step
    images: int  # trained on in this process's life: fewer than an epoch has where it went on inside one
    seconds: float  # that these took
    before: float  # that the others took


class Recorder:
    """Writes into the run folder; only the main process has one."""

    def __init__(
        self, config: TrainConfig, folder: RunFolder, segmenter: Segmenter, train_set: Dataset, val_set: Dataset, first: int
    ) -> None:
        self.config, self.folder, self.segmenter = config, folder, segmenter
        self.train_set, self.val_set = train_set, val_set
        self.legs = folder.legs()  # those before this one
        self.board = Board(folder.tensorboard, first, config.model_dump(exclude={"run", "resume"}))
        weighted = ", weighted by class" * (config.class_weights != "none")
        self.objective = CROSS_ENTROPY if config.loss == "ce" and not weighted else config.loss + weighted
        self.painter = ThreadPoolExecutor(1)  # drawing takes a second, in which the next epoch goes on
        self.drawing: Future[None] | None = None
        self.drawn = 0  # epochs on the last picture
        self.draw_from = 0.0  # on the monotonic clock: epochs of a second or two are not all drawn

    def epoch(
        self, epoch: int, served: nn.Module, trained: Trained, validated: Validation, best: float | None
    ) -> tuple[float, str]:
        """Record an epoch; the better of its score and `best`, the best before, and a line that tells of it."""
        labels, config = self.val_set.labels, self.config
        scores = metrics.scores(validated.tally.confusion)
        card = Card(
            architecture=Architecture(name=str(config.model), width=config.width),
            labels=labels,
            preprocess=self.segmenter.preprocess,
            data=self.train_set.name,
            epoch=epoch,
            scores=summary(scores),
            scored_on=described(self.val_set),
            legs=(*self.legs, self.leg(epoch)),
        )
        score = getattr(scores, LEADING) or 0.0
        better = best is None or score > best
        self.folder.save_epoch(epoch, card, to_tensors(served), better, config.keep)
        if better:
            self.export_best()
        speed = trained.images / trained.seconds if trained.images else None  # it went on after the epoch's last step
        row: Row = {
            "epoch": epoch,
            "train_loss": trained.loss,
            "val_loss": validated.loss if math.isfinite(validated.loss) else None,
            "learning_rate": trained.learning_rate,
            "images_per_s": speed,
            "seconds": trained.before + trained.seconds,
            **{f"val_{name}": value for name, value in scores.by_name().items()},
            **{f"train_running_{name}": value for name, value in metrics.scores(trained.confusion).by_name().items()},
        }
        if row["val_loss"] is None:
            print(f"warning: epoch {epoch}: the loss on the validation images is {validated.loss}: some of the network's"
                  " outputs overflow; if that goes on, try a lower --learning-rate", flush=True)  # fmt: skip
        self.folder.append_history(row)
        classes = metrics.class_scores(validated.tally.confusion, labels)
        self.board.write(row, picture_strip(FittedSegmenter(self.segmenter), self.val_set), classes)
        self.draw()
        # what the best is chosen by, where the labels lack a class
        leading = f" (of labelled classes {score:.3f})" * (scores.macro_iou != scores.macro_iou_labelled)
        line = (
            f"epoch {epoch}/{config.epochs}  loss {trained.loss:.4f}  val loss {validated.loss:.4f}"
            f"  macro IoU {scores.macro_iou or 0:.3f}{leading}"
            f"{'' if speed is None else f'  {speed:.1f} images/s'}{'  best so far' * better}"
        )
        return (score if best is None or better else best), line

    def leg(self, epoch: int) -> Leg:
        """What the card tells of this training after an epoch."""
        name, images = self.train_set.name, len(self.train_set)
        return Leg(command=self.config.command, data=name, images=images, seed=self.config.seed, epochs=epoch)

    def export_best(self) -> None:
        """Where it is asked for, bring the artefact beside the run's best checkpoint up to date.

        That it can't be made is no end of the training. Raises OSError.
        """
        path = self.folder.checkpoints / "best.safetensors"
        if self.config.export != "fp32" or not path.exists():
            return
        from training.export import openvino  # takes seconds

        try:
            best = read_checkpoint(path)
            with suppress(CheckpointError):  # made from the best one before, or none
                read_artefact(beside(path, "fp32"), best.digest)
                return
            with torch.random.fork_rng(devices=[]):  # the training goes on with its own numbers
                openvino.export_fp32(best, None)
        except (CheckpointError, RuntimeError, MemoryError) as error:
            print(f"warning: {path}: not exported for OpenVINO ({error})", flush=True)

    def draw(self, last: bool = False) -> None:
        """Draw the curves beside the training; those of epochs that follow too soon are left out, but for the last."""
        if last or ((not self.drawing or self.drawing.done()) and time.monotonic() >= self.draw_from):
            self._tell_of_drawing()
            title = f"{self.folder.path.name}: {self.config.model}, width {self.config.width}"
            history, path = self.folder.read_history(), self.folder.path / "curves.png"
            if len(history) == self.drawn:
                return

            def paint() -> None:
                start = time.monotonic()
                draw_curves(history, title, path, self.objective)
                self.drawn, end = len(history), time.monotonic()
                self.draw_from = end + (end - start) * (1 / DRAWING_SHARE - 1)

            self.drawing = self.painter.submit(paint)

    def close(self, finished: bool) -> None:
        """Write out what is buffered, and with `finished` the curves up to the last epoch: a run that is stopped may have
        few seconds left, and draws them when it goes on."""
        if finished:
            self.draw(last=True)
        self._tell_of_drawing()
        self.painter.shutdown()
        self.board.close()

    def _tell_of_drawing(self) -> None:
        """Wait for the picture that is being drawn, and warn where it can't be written."""
        drawing, self.drawing = self.drawing, None
        try:
            if drawing:
                drawing.result()
        except OSError as error:
            print(f"warning: {self.folder.path}: no curves ({error.strerror})", flush=True)
