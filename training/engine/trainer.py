"""One training run: what it is made of, and its epochs from the first, or from where it stopped, to the last."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

from torch.optim import Adam

from core.backends.torch_cpu import in_memory
from core.checkpoints import safetensors_io
from core.errors import InputError, RunError
from core.images.resize import Preprocess
from core.inference.segmenter import Segmenter
from core.models import MODELS
from training.config import TrainConfig, require_new
from training.data.augment import RECIPES, AugmentOptions, Classic, Street
from training.data.loader import EpochBatches, Loader
from training.data.storage import Kept
from training.data.training_data import Survey, TrainingData, open_training_data
from training.distributed.context import World
from training.distributed.launcher import job
from training.distributed.signals import StopWish
from training.engine import resume_state
from training.engine.ema import Average
from training.engine.loop import Loop, Stopped, learning_rates
from training.engine.losses import Loss, class_weights
from training.engine.network import new_network, past_of, place_network, wrap
from training.engine.reproducibility import changed, conditions
from training.engine.resume_state import Progress, TrainState
from training.engine.step import Step, Sums
from training.engine.validation import validate
from training.tracking.eta import Forecast
from training.tracking.lock import WAIT_S, only_writer
from training.tracking.recorder import Recorder, Trained
from training.tracking.run_dir import RunFolder
from training.tracking.run_summary import announce


def make_preprocess(config: TrainConfig, stride: int) -> Preprocess:
    """How photographs become the network's input in this run, and in everything that serves its checkpoints."""
    return Preprocess(mode=config.resize or RECIPES[config.augment].mode, size=config.size, stride=stride)


def make_augment(config: TrainConfig, preprocess: Preprocess) -> Classic | Street:
    """Return the augmentation of a run."""
    return RECIPES[config.augment](preprocess, AugmentOptions(config.scale, config.aspect, config.jitter))


def make_data(config: TrainConfig, preprocess: Preprocess) -> TrainingData:
    """The data of a run, and what of it is kept after the first decoding. Raises InputError."""
    keep = make_augment(config, preprocess).keep
    return open_training_data(str(config.data), keep, Kept(preprocess, whole_labels=True), config.cache_folder)


def own_job(folder: RunFolder) -> bool:
    """Whether the launcher's job that this process belongs to was the last to go on with a run. Raises InputError."""
    return job() is not None and folder.job() == job()


def writer(config: TrainConfig) -> AbstractContextManager[None]:
    """Hold the run folder. A part of this same job on a machine that was cut off writes until it notices, and is waited for."""
    wait_s = max(WAIT_S, config.timeout) if own_job(RunFolder(config.run_folder)) else WAIT_S
    return only_writer(config.run_folder, wait_s)


class Run:
    """Everything that a run needs, on this rank; every rank trains and counts, the main one writes."""

    def __init__(self, config: TrainConfig, survey: Survey, world: World, wish: StopWish) -> None:
        self.config, self.survey, self.world, self.wish = config, survey, world, wish
        self.folder = RunFolder(config.run_folder)
        self.conditions = conditions(config, world, survey)
        preprocess = make_preprocess(config, MODELS[str(config.model)].stride)
        self.train_set, self.val_set = make_data(config, preprocess).open(survey)
        labels = self.train_set.labels
        batches = EpochBatches(len(self.train_set), config.batch_size, config.seed, world.rank, world.ranks)
        augment = make_augment(config, preprocess)
        self.loader = Loader(self.train_set, augment, batches, config.worker_count, pin=world.device.type == "cuda")
        self.network = place_network(new_network(config, labels), world)
        optimizer = Adam(
            self.network.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            decoupled_weight_decay=True,  # of the weights, not of the gradients: Loshchilov and Hutter 2019, algorithm 2
            fused=True,
        )
        average = None if config.ema is None else Average(self.network, config.ema)
        self.state = TrainState(self.network, optimizer, average, Sums(len(labels), world.device))
        # what is evaluated and served; validation runs what the service runs, on the network in memory
        self.served = average.network if average is not None else self.network
        self.segmenter = Segmenter.around(in_memory(self.served, preprocess, world.device), labels)
        weights = class_weights(survey.train.pixels, world.device) if config.class_weights == "data" else None
        step = Step(
            self.network,
            wrap(self.network, world, config.compile),
            optimizer,
            Loss(config.loss, weights, world.ranks),
            world,
            preprocess,
            config.clip,
            average,
            self.conditions["precision"] == "bf16",
            config.accumulate,
        )
        self.loop = Loop(step, self.loader, self.state.sums, wish, config.checkpoint_every)

    def train(self) -> None:
        """Train to the last epoch: steps, an evaluation and a checkpoint for each. Raises InputError, RunError."""
        with writer(self.config) if self.world.main else nullcontext():
            progress = self.start()
            recorder = None
            if self.world.main:
                recorder = Recorder(self.config, self.folder, self.segmenter, self.train_set, self.val_set, progress.epoch + 1)
            try:
                if recorder:  # of a run that was killed between the two, or was not asked for it until now
                    with told_as_run_error(self.folder):
                        recorder.export_best()
                self.loop.forecast = Forecast(self.config.epochs - progress.epoch, shown=self.world.main)
                while not self.finished(progress):
                    progress = self.epoch(progress, recorder)
                if recorder:
                    print(f"done: {self.folder.checkpoints / 'best.safetensors'}", flush=True)
            except Stopped:
                if recorder:
                    print(f"stopped; go on with: python -m training train --run {self.folder.path} --resume", flush=True)
            finally:
                if recorder:
                    recorder.close(finished=not self.wish.asked)

    def start(self) -> Progress:
        """Where to begin: at nothing, or where the newest whole resume file says. Raises InputError, RunError."""
        if self.world.main and not self.config.resume:
            require_new(self.folder.path)  # again: another process may have trained here until now
        if self.world.main and self.config.resume:
            self.folder.require_labels(self.train_set.labels)
        found = self.folder.newest_resume() if self.world.main and self.config.resume else None
        path, data = self.world.share((found[0] if found else None, self.folder.data()) if self.world.main else None)
        progress = Progress(on=self.conditions)
        if path is not None:
            document, tensors = found[1:] if found else safetensors_io.read(path)
            progress = self.go_on(
                resume_state.unpack(document, tensors, self.state, self.world), data not in (None, self.config.data)
            )
        if self.world.main:
            if self.config.resume:
                inside = f", step {progress.step}" if progress.step else ""
                told = (
                    f"going on after epoch {progress.epoch}{inside}"
                    if path
                    else "nothing was written yet; starting from the beginning"
                )
                print(f"{self.folder.path}: {told}", flush=True)
            if progress.epoch >= self.config.epochs:
                print(f"{self.folder.path}: has its {progress.epoch} epochs already; a larger --epochs goes on", flush=True)
            start = {"epoch": progress.epoch, "step": progress.step, **progress.on, "exact": progress.exact, "job": job()}
            self.folder.create(self.config, start, self.survey.skipped, None if path else past_of(self.config))
            self.folder.go_back(progress.epoch)
            precision = self.conditions["precision"]
            announce(self.config, self.world, precision, self.train_set, self.val_set, self.loader.batches)
        self.world.barrier()
        return progress

    def go_on(self, progress: Progress, moved: bool = False) -> Progress:
        """The progress of a resume file on this machine; a warning where something makes other bits of it.

        Raises InputError where the data is said to lie elsewhere now, and it is not the same.
        """
        known = self.conditions["data"]
        if moved and progress.on.get("data", known) != known:
            raise InputError("--data: other pictures than the run has learned from; it goes on with these alone, wherever they"
                             " lie; to train on others: --init and another --run")  # fmt: skip
        changes = changed(progress.on, self.conditions)
        if changes and self.world.main:
            print(f"warning: {', '.join(changes)}: it goes on, but not with the bits of an undisturbed run", flush=True)
        return replace(progress, on=self.conditions, exact=progress.exact and not changes)

    def finished(self, progress: Progress) -> bool:
        """Whether nothing is left to do, and why, where that is not plain."""
        epochs, patience = self.config.epochs, self.config.patience
        if patience and progress.since_best >= patience:
            if self.world.main:
                print(f"no better score in {progress.since_best} epochs: this is the end (--patience)", flush=True)
            return True
        return progress.epoch >= epochs

    def epoch(self, progress: Progress, recorder: Recorder | None) -> Progress:
        """The rest of an epoch, its evaluation and its record. Raises Stopped with everything saved, RunError."""
        config, world, epoch, steps = self.config, self.world, progress.epoch + 1, len(self.loader)
        rates = learning_rates(config.schedule, config.learning_rate, epoch, config.epochs, steps, config.warmup)

        began, spent = time.perf_counter(), None

        def save(done: int) -> None:
            seconds = time.perf_counter() - began if spent is None else spent
            self.save(replace(progress, step=done, seconds=progress.seconds + seconds))

        title = f"epoch {epoch}/{config.epochs}"
        spent = self.loop.epoch(epoch, progress.step, rates, save, title)
        trained = self.collect(rates[-1], (steps - progress.step) * config.batch_size, spent, progress.seconds)
        world.share_buffers(self.network)
        if self.served is not self.network:
            world.share_buffers(self.served)
        self.served.eval()

        def check() -> None:
            if world.any(self.wish.asked):
                save(steps)
                raise Stopped

        def stop_waiting() -> None:
            if self.wish.asked:  # the others meet this process at the end of their round
                check()

        validated = validate(self.segmenter, self.val_set, config.batch_size, world, check, stop_waiting)
        best, line = progress.best, ""
        if recorder:
            with told_as_run_error(self.folder):
                best, line = recorder.epoch(epoch, self.served, trained, validated, progress.best)
        best = world.share(best)
        since_best = 0 if progress.best is None or best > progress.best else progress.since_best + 1
        for counter in (self.state.sums.counts, self.state.sums.loss):
            counter.zero_()
        progress = replace(progress, epoch=epoch, step=0, seconds=0.0, best=best, since_best=since_best)
        self.save(progress)
        if recorder:
            print(line, flush=True)  # only now: whoever reads it may be gone
        return progress

    def collect(self, rate: float, images: int, seconds: float, before: float) -> Trained:
        """What all ranks counted in this epoch."""
        loss, counts = self.state.sums.loss.cpu().numpy().copy(), self.state.sums.counts.cpu().numpy().copy()
        self.world.add(loss)
        self.world.add(counts)
        return Trained(float(loss[0] / max(loss[1], 1)), counts, rate, images, seconds, before)

    def save(self, progress: Progress) -> None:
        """Write a resume file; every rank brings its part."""
        document, tensors = resume_state.pack(progress, self.state, self.world)
        if self.world.main:
            with told_as_run_error(self.folder):
                self.folder.save_resume(progress.epoch, progress.step, document, tensors)


@contextmanager
def told_as_run_error(folder: RunFolder) -> Iterator[None]:
    """Turn a file that can't be written (a full disk) into an error that says how to go on."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{error.filename or folder.path}: can't be written ({error.strerror}); the checkpoint before it is"
                       f" whole: mend that and go on with --run {folder.path} --resume") from error  # fmt: skip
