"""The training loop of a run: restore or initialize, then train, validate, record and save each epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

from core.backends.torch_cpu import backend_from_network
from core.checkpoints import safetensors_io
from core.errors import InputError, TrainingError
from core.inference.segmenter import Segmenter
from core.models import model_class
from training.config import TrainConfig, require_new
from training.data.augment import make_augmentation, make_preprocess
from training.data.loader import DistributedBatchSampler, ThreadedLoader
from training.data.training_data import DataScan, make_data
from training.distributed.context import DistributedContext
from training.distributed.launcher import job_id
from training.distributed.signals import StopRequest
from training.engine import resume_state
from training.engine.ema import ModelEma
from training.engine.loop import TrainingStopped, TrainLoop
from training.engine.losses import SegmentationLoss, class_weights
from training.engine.lr_schedule import learning_rates
from training.engine.network import build_network, lineage, to_device, wrap_ddp
from training.engine.optimizer import build_optimizer
from training.engine.reproducibility import describe_changes, environment, is_deterministic
from training.engine.resume_state import TrainingProgress, TrainState
from training.engine.step import EpochAccumulators, TrainStep
from training.engine.validation import ValidationResult, validate
from training.tracking.lock import WAIT_S, lock_run_dir
from training.tracking.recorder import EpochRecorder, TrainEpochStats
from training.tracking.run_dir import RunDir
from training.tracking.run_summary import EtaPrinter, print_run_summary


class Trainer:
    """Trains one run on this rank. All ranks train and validate; only the main one writes files and prints messages."""

    def __init__(self, config: TrainConfig, scan: DataScan, context: DistributedContext, stop_request: StopRequest) -> None:
        self.config, self.scan, self.context, self.stop_request = config, scan, context, stop_request
        self.run_dir = RunDir(config.run_dir)
        self.environment = environment(config, context, scan)
        self.schedule_start = 0  # epoch after which the learning-rate schedule starts
        device = context.device

        # Data
        preprocess = make_preprocess(config, model_class(str(config.model)).stride)
        self.train_set, self.val_set = make_data(config, preprocess).open(scan)
        labels = self.train_set.labels
        sampler = DistributedBatchSampler(len(self.train_set), config.batch_size, config.seed, context.rank, context.world_size)
        augmentation = make_augmentation(config, preprocess)
        self.loader = ThreadedLoader(
            self.train_set, augmentation, sampler, config.worker_count, pin_memory=device.type == "cuda"
        )

        # Network, loss and optimizer
        self.network = to_device(build_network(config, labels), context)
        optimizer = build_optimizer(self.network, config.learning_rate, config.weight_decay)
        ema = None if config.ema is None else ModelEma(self.network, config.ema)
        self.state = TrainState(self.network, optimizer, ema, EpochAccumulators(len(labels), device))
        weights = class_weights(config.class_weights, scan.train_pixels, device)
        step = TrainStep(
            self.network,
            wrap_ddp(self.network, context, config.compile),
            optimizer,
            SegmentationLoss(config.loss, weights, context.world_size),
            context,
            preprocess,
            max_grad_norm=config.clip,
            ema=ema,
            bf16=self.environment["precision"] == "bf16",
            accumulation_steps=config.accumulate,
        )
        self.loop = TrainLoop(step, self.loader, self.state.accumulators, stop_request, config.checkpoint_every)

        # Validation runs the service's code on the network that checkpoints will hold.
        self.eval_network = self.network if ema is None else ema.network
        self.segmenter = Segmenter.from_backend(backend_from_network(self.eval_network, preprocess, device), labels)

    def train(self) -> None:
        """Train to the last epoch, with a validation, a checkpoint and a resume file after each.

        Raises InputError, TrainingError.
        """
        with lock_run(self.config) if self.context.is_main else nullcontext():
            progress = self.restore_or_initialize()
            self.loop.eta_printer = EtaPrinter(self.config.epochs - progress.epoch, enabled=self.context.is_main)
            recorder = None
            if self.context.is_main:
                first_epoch = progress.epoch + 1
                recorder = EpochRecorder(self.config, self.run_dir, self.segmenter, self.train_set, self.val_set, first_epoch)
            try:
                if recorder:
                    # The export is missing if the run was killed before it, or resumed with a new --export.
                    with os_errors_as_training_errors(self.run_dir):
                        recorder.export_best()
                while not self.is_finished(progress):
                    progress = self.run_epoch(progress, recorder)
                if recorder:
                    print(f"done: {self.run_dir.checkpoints / 'best.safetensors'}", flush=True)
            except TrainingStopped:
                if recorder:
                    print(f"stopped; resume with: python -m training train --run {self.run_dir.path} --resume", flush=True)
            finally:
                if recorder:
                    recorder.close(finished=not self.stop_request.requested)

    def run_epoch(self, progress: TrainingProgress, recorder: EpochRecorder | None) -> TrainingProgress:
        """Train the remaining steps of an epoch, validate, record the results and save; return the new progress.

        Raises:
            TrainingStopped: A stop was requested; everything is saved.
            TrainingError: A loss is not finite, or a file can't be written.
        """
        config, epoch, num_steps = self.config, progress.epoch + 1, len(self.loader)
        rates = self.learning_rates(epoch, config.epochs, num_steps)
        start = time.perf_counter()
        train_seconds: float | None = None  # until the last step is done

        def save_within_epoch(step: int) -> None:
            seconds = time.perf_counter() - start if train_seconds is None else train_seconds
            self.save(replace(progress, step=step, seconds=progress.seconds + seconds))

        def stop_if_requested() -> None:  # during validation, after the last step
            if self.context.any_rank(self.stop_request.requested):
                save_within_epoch(num_steps)
                raise TrainingStopped

        # Train
        title = f"epoch {epoch}/{config.epochs}"
        train_seconds = self.loop.run_epoch(epoch, progress.step, rates, save_within_epoch, title)
        images = (num_steps - progress.step) * config.batch_size
        train_stats = self.reduce_stats(rates[-1], images, train_seconds, progress.seconds)

        # Validate
        validation = self.validate(stop_if_requested)

        # Record
        best, summary = progress.best, ""
        if recorder:
            with os_errors_as_training_errors(self.run_dir):
                best, summary = recorder.record(epoch, self.eval_network, train_stats, validation, progress.best)
        best = self.context.broadcast(best)
        is_best = progress.best is None or best > progress.best

        # Save
        self.state.accumulators.confusion.zero_()
        self.state.accumulators.loss_sums.zero_()
        since_best = 0 if is_best else progress.since_best + 1
        progress = replace(progress, epoch=epoch, step=0, seconds=0.0, best=best, since_best=since_best)
        self.save(progress)
        if recorder:
            print(summary, flush=True)  # After the save: the reader of a pipe may be gone.
        return progress

    def is_finished(self, progress: TrainingProgress) -> bool:
        """Return whether no epoch is left, or early stopping applies."""
        epochs, patience = self.config.epochs, self.config.patience
        if patience and progress.since_best >= patience:
            if self.context.is_main:
                print(f"early stopping (--patience): no better score in {progress.since_best} epochs", flush=True)
            return True
        return progress.epoch >= epochs

    def reduce_stats(self, learning_rate: float, images: int, seconds: float, earlier_seconds: float) -> TrainEpochStats:
        """Return the training statistics of an epoch, summed over all ranks."""
        loss_sums = self.state.accumulators.loss_sums.cpu().numpy().copy()
        confusion = self.state.accumulators.confusion.cpu().numpy().copy()
        self.context.all_reduce_sum(loss_sums)
        self.context.all_reduce_sum(confusion)
        loss = float(loss_sums[0] / max(loss_sums[1], 1))
        return TrainEpochStats(loss, confusion, learning_rate, images, seconds, earlier_seconds)

    def validate(self, stop_if_requested: Callable[[], None]) -> ValidationResult:
        """Validate the network that the checkpoint will hold, with rank 0's batch norm statistics on all ranks."""
        self.context.broadcast_buffers(self.network)
        if self.eval_network is not self.network:
            self.context.broadcast_buffers(self.eval_network)
        self.eval_network.eval()

        def on_wait() -> None:
            # This rank waits for images. The others join the collective at the end of their round.
            if self.stop_request.requested:
                stop_if_requested()

        return validate(self.segmenter, self.val_set, self.config.batch_size, self.context, stop_if_requested, on_wait)

    def save(self, progress: TrainingProgress) -> None:
        """Write a resume file. A collective: every rank contributes its part."""
        document, tensors = resume_state.pack(progress, self.state, self.context)
        if self.context.is_main:
            with os_errors_as_training_errors(self.run_dir):
                self.run_dir.save_resume(progress.epoch, progress.step, document, tensors)

    def restore_or_initialize(self) -> TrainingProgress:
        """Restore the newest intact resume file on all ranks, or prepare a new run; return the progress.

        Raises InputError, TrainingError.
        """
        config, context = self.config, self.context
        resume_file = None  # path, metadata and tensors
        if context.is_main and config.resume:
            self.run_dir.check_labels(self.train_set.labels)
            resume_file = self.run_dir.newest_resume()
        elif context.is_main:
            require_new(self.run_dir.path)  # Checked again under the lock: another process may have trained here meanwhile.
        path, previous_data, planned_epochs, schedule_start = context.broadcast(
            (resume_file[0] if resume_file else None, *self.run_dir.last_start()) if context.is_main else None
        )
        progress = TrainingProgress(environment=self.environment, bitwise_reproducible=is_deterministic(context.device))
        if path is not None:
            document, tensors = resume_file[1:] if resume_file else safetensors_io.read(path)
            saved = resume_state.unpack(document, tensors, self.state, context)
            progress = self.check_resume(saved, data_moved=previous_data not in (None, config.data))
            # After the restart of a process, the schedule has been restarted already.
            restarts_schedule = config.resume_schedule == "restart" and planned_epochs != config.epochs
            self.schedule_start = progress.epoch if restarts_schedule else schedule_start
        if context.is_main:
            self.report_start(progress, resumed=path is not None)
            self.report_schedule(progress.epoch, planned_epochs)
            start = {"epoch": progress.epoch, "step": progress.step, **progress.environment}
            start |= {"bitwise_reproducible": progress.bitwise_reproducible, "job": job_id()}
            start_lineage = None if path else lineage(config)
            self.run_dir.create(config, start, self.scan.skipped, start_lineage, self.scan.held_out, self.schedule_start)
            self.run_dir.truncate_after(progress.epoch)
            precision = self.environment["precision"]
            print_run_summary(config, context, precision, self.train_set, self.val_set, self.loader.sampler)
        context.barrier()
        return progress

    def check_resume(self, saved: TrainingProgress, data_moved: bool) -> TrainingProgress:
        """Return the progress of a resume file for this environment, with a warning if the bits will differ.

        Raises:
            InputError: `--data` names another directory (`data_moved`), and its content differs.
        """
        data = self.environment["data"]
        if data_moved and saved.environment.get("data", data) != data:
            raise InputError(
                "--data: the images or labels differ from those that the run was trained on; pass the same data to resume, or"
                " train on other data with --init and another --run"
            )
        changes = describe_changes(saved.environment, self.environment)
        if changes and self.context.is_main:
            print(f"warning: {', '.join(changes)}: training continues, but the result is not bitwise reproducible", flush=True)
        reproducible = saved.bitwise_reproducible and not changes and is_deterministic(self.context.device)
        return replace(saved, environment=self.environment, bitwise_reproducible=reproducible)

    def report_start(self, progress: TrainingProgress, resumed: bool) -> None:
        """Print where a run with `--resume` starts, and whether it is complete already."""
        if resumed:
            step = f", step {progress.step}" if progress.step else ""
            print(f"{self.run_dir.path}: resuming after epoch {progress.epoch}{step}", flush=True)
        elif self.config.resume:
            print(f"{self.run_dir.path}: no resume file yet; starting from the beginning", flush=True)
        if progress.epoch >= self.config.epochs:
            print(f"{self.run_dir.path}: all {progress.epoch} epochs are complete; increase --epochs to continue", flush=True)

    def report_schedule(self, epoch: int, planned: int | None) -> None:
        """Print how the learning rate changes if the run had `planned` epochs and is resumed with another number."""
        config = self.config
        is_changed = planned not in (None, config.epochs) and epoch < config.epochs
        if config.schedule != "cosine" or not is_changed or self.schedule_start == epoch:
            return
        before, after = (self.learning_rates(epoch + 1, epochs, 1)[0] for epochs in (max(planned or 0, epoch), config.epochs))
        print(
            f"learning rate: {before:.2g} after epoch {epoch} of {planned}, now {after:.2g}, because the cosine ends at epoch"
            f" {config.epochs}; --resume-schedule restart starts a new cosine instead",
            flush=True,
        )

    def learning_rates(self, epoch: int, epochs: int, steps: int) -> list[float]:
        """Return the learning rate of each step of an epoch, in a run of `epochs` epochs."""
        config, start = self.config, self.schedule_start
        return learning_rates(config.schedule, config.learning_rate, epoch - start, epochs - start, steps, config.warmup)


@contextmanager
def os_errors_as_training_errors(run_dir: RunDir) -> Iterator[None]:
    """Convert an OSError while writing (such as a full disk) into a TrainingError that explains how to resume."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{error.filename or run_dir.path}: can't be written ({error.strerror}); the previous checkpoint is intact: fix"
            f" the cause and resume with --run {run_dir.path} --resume"
        ) from error


def is_own_job(run_dir: RunDir) -> bool:
    """Return whether the launcher's job of this process was the last to train in a run directory. Raises InputError."""
    return job_id() is not None and run_dir.last_job_id() == job_id()


def lock_run(config: TrainConfig) -> AbstractContextManager[None]:
    """Lock the run directory for the duration of a `with` block. Raises InputError if another process holds the lock.

    A process of the same job on a node that lost its connection writes until its timeout, so the lock is waited for as long.
    """
    wait_s = max(WAIT_S, config.timeout) if is_own_job(RunDir(config.run_dir)) else WAIT_S
    return lock_run_dir(config.run_dir, wait_s)
