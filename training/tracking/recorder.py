"""What an epoch writes: checkpoint, history row, curves, TensorBoard log and a line on the terminal."""

from __future__ import annotations

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import nn

from core.backends.torch_weights import state_dict_numpy
from core.checkpoints.checkpoint import Architecture, CheckpointMetadata, TrainingStage, headline_scores, read_checkpoint
from core.checkpoints.exported import export_dir, read_exported_model
from core.data.datasets import ConcatDataset, describe_dataset
from core.errors import CheckpointError
from core.evaluation import metrics
from core.inference.segmenter import Segmenter
from training.config import TrainConfig
from training.engine.validation import PreresizedSegmenter, ValidationResult
from training.tracking.curves import CROSS_ENTROPY, draw_curves
from training.tracking.history import Row
from training.tracking.optional_outputs import BestEffort
from training.tracking.run_dir import SELECTION_METRIC, RunDir
from training.tracking.tensorboard import TensorBoardLogger, sample_grid

MAX_PLOT_FRACTION = 0.05  # of the time spent on plotting: it holds the interpreter lock, for which training threads wait


@dataclass
class TrainEpochStats:
    """Statistics of one training epoch over all ranks."""

    loss: float  # training loss, averaged over the valid pixels
    confusion: metrics.ConfusionMatrix  # of the augmented crops
    learning_rate: float  # of the last step
    images: int  # that this process trained on: fewer than an epoch's if the epoch was resumed
    seconds: float  # spent on these images
    earlier_seconds: float  # spent on the rest of the epoch before it was resumed


class EpochRecorder:
    """Writes the results of each epoch into the run directory; only the main process has one."""

    def __init__(
        self,
        config: TrainConfig,
        run_dir: RunDir,
        segmenter: Segmenter,
        train_set: ConcatDataset,
        val_set: ConcatDataset,
        first_epoch: int,
    ) -> None:
        self.config, self.run_dir, self.segmenter = config, run_dir, segmenter
        self.train_set, self.val_set = train_set, val_set
        self.earlier_stages = run_dir.stages()
        settings = config.model_dump(exclude={"run", "resume"}) | {"data": " ".join(config.data or ())}
        self.tensorboard = TensorBoardLogger(run_dir.tensorboard, first_epoch, settings)
        weighted = ", weighted by class" if config.class_weights != "none" else ""
        self.train_loss_name = CROSS_ENTROPY if config.loss == "ce" and not weighted else config.loss + weighted
        self.curves_path = run_dir.path / "curves.png"
        self.curves_output = BestEffort(self.curves_path, "curves")
        self.plot_executor = ThreadPoolExecutor(1)  # plotting takes a second, during which the next epoch runs
        self.pending_plot: Future[None] | None = None
        self.plotted_epochs = 0
        self.next_plot_at = 0.0  # monotonic clock; short epochs are not all plotted

    def record(
        self, epoch: int, network: nn.Module, train: TrainEpochStats, validation: ValidationResult, best: float | None
    ) -> tuple[float, str]:
        """Write the results of an epoch.

        Args:
            network: The network to save: with --ema, the averaged one.
            best: Best score of the earlier epochs.

        Returns:
            The best score so far, and a summary line for the terminal.
        """
        labels, config = self.val_set.labels, self.config
        scores = metrics.scores(validation.counts.confusion)
        parts = self._scores_of_parts(validation)
        metadata = CheckpointMetadata(
            architecture=Architecture(name=str(config.model), width=config.width),
            labels=labels,
            preprocess=self.segmenter.preprocess,
            data=self.train_set.name,
            epoch=epoch,
            scores=headline_scores(scores),
            scored_on=describe_dataset(self.val_set),
            stages=(*self.earlier_stages, self._stage(epoch)),
        )
        score = getattr(scores, SELECTION_METRIC) or 0.0
        is_best = best is None or score > best
        self.run_dir.save_epoch(epoch, metadata, state_dict_numpy(network), is_best, config.keep)
        if is_best:
            self.export_best()
        speed = train.images / train.seconds if train.images else None  # no images if resumed after the epoch's last step
        row: Row = {
            "epoch": epoch,
            "train_loss": train.loss,
            "val_loss": validation.loss if math.isfinite(validation.loss) else None,
            "learning_rate": train.learning_rate,
            "images_per_s": speed,
            "seconds": train.earlier_seconds + train.seconds,
            **{f"val_{name}": value for name, value in scores.by_name().items()},
            **{f"val_{key}/{name}": value for name, part in parts.items() for key, value in headline_scores(part).items()},
            **{f"train_running_{name}": value for name, value in metrics.scores(train.confusion).by_name().items()},
        }
        if row["val_loss"] is None:
            print(f"warning: epoch {epoch}: the validation loss is {validation.loss} because outputs of the network overflow;"
                  " if this persists, use a lower --learning-rate", flush=True)  # fmt: skip
        self.run_dir.append_history(row)
        class_scores = metrics.class_scores(validation.counts.confusion, labels)
        self.tensorboard.write(row, lambda: sample_grid(PreresizedSegmenter(self.segmenter), self.val_set), class_scores)
        self._plot()
        line = (
            f"epoch {epoch}/{config.epochs}  loss {train.loss:.4f}  val loss {validation.loss:.4f}"
            f"  {_format_miou(scores)}"
            f"{'' if speed is None else f'  {speed:.1f} images/s'}{'  best so far' if is_best else ''}"
        )
        for name, part in parts.items():
            line += f"\n  {name}: {_format_miou(part)}, pixel accuracy {part.pixel_accuracy or 0:.3f}"
        return (score if best is None or is_best else best), line

    def _scores_of_parts(self, validation: ValidationResult) -> dict[str, metrics.Scores]:
        """Return the scores on each of several datasets, by its name; empty if the run has a single one."""
        if len(self.train_set.parts) == 1:
            return {}
        parts = zip(self.val_set.parts, self.val_set.slices(), strict=True)
        per_image = validation.counts.per_image
        return {part.name: metrics.scores_of_totals(per_image[images].sum(0)) for part, images in parts}

    def _stage(self, epoch: int) -> TrainingStage:
        """Describe this training up to an epoch for the metadata of its checkpoint."""
        name, images = self.train_set.name, len(self.train_set)
        return TrainingStage(command=self.config.command, data=name, images=images, seed=self.config.seed, epochs=epoch)

    def export_best(self) -> None:
        """With --export, export the best checkpoint for OpenVINO unless its export is up to date.

        A failed export is a warning.

        Raises:
            OSError: The exported model can't be written.
        """
        path = self.run_dir.checkpoints / "best.safetensors"
        if self.config.export != "fp32" or not path.exists():
            return
        from training.export import openvino  # importing it takes seconds

        try:
            best = read_checkpoint(path)
            with suppress(CheckpointError):  # no export yet, or that of an earlier checkpoint
                read_exported_model(export_dir(path, "fp32"), best.digest)
                return
            with torch.random.fork_rng(devices=[]):  # keeps the random state of the training
                openvino.export_fp32(best, None)
        except (CheckpointError, RuntimeError, MemoryError) as error:
            print(f"warning: {path}: not exported to OpenVINO ({error})", flush=True)

    def _plot(self, final: bool = False) -> None:
        """Plot the curves in the background; skip the first epoch and those that follow too quickly unless it is `final`."""
        idle = self.pending_plot is None or self.pending_plot.done()
        if not final and not (idle and time.monotonic() >= self.next_plot_at):
            return
        self._wait_for_plot()
        with self.curves_output:
            history = self.run_dir.read_history()
            if len(history) > self.plotted_epochs and (final or len(history) > 1):
                self.pending_plot = self.plot_executor.submit(self._draw, history)

    def _draw(self, history: list[Row]) -> None:
        start = time.monotonic()
        title = f"{self.run_dir.path.name}: {self.config.model}, width {self.config.width}"
        draw_curves(history, title, self.curves_path, self.train_loss_name)
        self.plotted_epochs, end = len(history), time.monotonic()
        self.next_plot_at = end + (end - start) * (1 / MAX_PLOT_FRACTION - 1)

    def _wait_for_plot(self) -> None:
        """Wait until the curves are written; a failure is a warning."""
        pending, self.pending_plot = self.pending_plot, None
        if pending is not None:
            with self.curves_output:
                pending.result()

    def close(self, finished: bool) -> None:
        """Write buffered output, and the curves of the last epoch if the run is `finished`.

        A stopped run may have only seconds left to exit; it plots the curves when it is resumed.
        """
        if finished:
            self._plot(final=True)
        self._wait_for_plot()
        self.plot_executor.shutdown()
        self.tensorboard.close()


def _format_miou(scores: metrics.Scores) -> str:
    """Return the mIoU, and that of the labeled classes, which selects the best checkpoint, if the labels lack a class."""
    present = f" (labeled classes {scores.miou_present or 0:.3f})" if scores.miou != scores.miou_present else ""
    return f"mIoU {scores.miou or 0:.3f}{present}"
