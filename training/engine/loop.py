"""The steps of one epoch: learning rate, loss checks, progress bar, intermediate saves, and stops agreed on by all ranks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from core.data.datasets import format_problems
from core.errors import TrainingError
from training.data.loader import ThreadedLoader
from training.distributed.signals import StopRequest
from training.engine.step import EpochAccumulators, TrainStep
from training.tracking.progress_bar import progress_bar
from training.tracking.run_summary import EtaPrinter

LOG_EVERY = 10  # steps between two reads of the loss on a GPU: each makes the host wait for the device


class TrainingStopped(Exception):
    """All ranks have agreed to stop, and everything is saved."""


class TrainLoop:
    """Runs the steps of one epoch after another, in lockstep on all ranks.

    Args:
        checkpoint_every: Steps between two saves inside an epoch; None to save at its end only.
    """

    def __init__(
        self,
        step: TrainStep,
        loader: ThreadedLoader,
        accumulators: EpochAccumulators,
        stop_request: StopRequest,
        checkpoint_every: int | None,
    ) -> None:
        self.step, self.loader, self.accumulators = step, loader, accumulators
        self.stop_request, self.checkpoint_every = stop_request, checkpoint_every
        self.eta_printer = EtaPrinter(0, enabled=False)
        self.check_every = 1 if step.device.type == "cpu" else LOG_EVERY

    def run_epoch(
        self, epoch: int, start_step: int, learning_rates: Sequence[float], save: Callable[[int], None], title: str
    ) -> float:
        """Run the steps of an epoch from `start_step` (0 for the first) and return their duration in seconds.

        Args:
            learning_rates: The learning rate of each step of the epoch.
            save: Called on every rank with the number of finished steps, every `checkpoint_every` steps and before a stop.
            title: Text before the progress bar.

        Raises:
            TrainingStopped: A stop was requested; everything is saved.
            TrainingError: A loss or gradient is not finite.
        """
        num_steps, context = len(self.loader), self.step.context
        finished = start_step  # steps of the epoch
        start = time.perf_counter()
        self.step.unwrapped.train()

        def stop_if_requested() -> None:
            if context.any_rank(self.stop_request.requested):
                if finished > start_step:
                    self.check_finite(epoch, finished)
                save(finished)
                raise TrainingStopped

        def on_wait() -> None:
            # This rank waits for a batch. The others join the collective before their next step.
            if self.stop_request.requested:
                stop_if_requested()

        with progress_bar(title, context.is_main, total=num_steps, initial=start_step, unit="step") as bar:
            for batch in self.loader.iter_epoch(epoch, start_step, context.timeout_s, on_wait):
                stop_if_requested()
                for group in self.step.optimizer.param_groups:
                    group["lr"] = learning_rates[finished]
                self.step(batch, self.accumulators)
                finished += 1
                if finished % self.check_every == 0 or finished in (start_step + 1, num_steps):
                    self.check_finite(epoch, finished)
                    images = (finished - start_step) * self.loader.sampler.batch_size
                    loss = float(self.accumulators.loss_sums[0]) / max(float(self.accumulators.loss_sums[1]), 1)
                    bar.set_postfix_str(
                        f"loss {loss:.3f}, {images / (time.perf_counter() - start):.1f} images/s", refresh=False
                    )
                self.eta_printer.step(finished - start_step, num_steps)
                bar.update()
                if self.checkpoint_every and finished % self.checkpoint_every == 0 and finished < num_steps:
                    self.check_finite(epoch, finished)
                    save(finished)
        self.eta_printer.end_epoch(finished - start_step)
        return time.perf_counter() - start

    def check_finite(self, epoch: int, step: int) -> None:
        """Raise TrainingError, with the files of the batch, if the loss or a gradient was not finite up to `step`.

        Synchronizes host and device.
        """
        loss = float(self.accumulators.loss_sums[0])
        if math.isfinite(loss) and not float(self.step.found_inf):
            return
        what = "a gradient" if math.isfinite(loss) else f"the loss ({loss})"
        first_bad = step - self.step.steps_run + int(self.step.updates_applied) + 1  # the first step without an update
        batch = self.loader.sampler.global_batches(epoch)[first_bad - 1]
        message = (
            f"epoch {epoch}, step {first_bad}: {what} is not finite; the weights were not updated. Check these files, or"
            " start another --run from the newest checkpoint (--init) with a lower --learning-rate or with --clip"
        )
        raise TrainingError(format_problems(message, [self.loader.dataset.sample_name(index) for index in batch]))
