"""The training loop: the steps of an epoch, from wherever it stopped, and when they are left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from core.data.datasets import listing
from core.errors import RunError
from training.data.loader import Loader
from training.distributed.signals import StopWish
from training.engine.step import Step, Sums
from training.tracking.eta import Forecast
from training.tracking.progress_bar import bar

SHOW_EVERY = 10  # steps between two looks at the loss where the host has to wait for the device to see it


class Stopped(Exception):
    """All ranks have agreed to stop here."""


class Loop:
    """Runs a run's epochs step by step, the same on every rank."""

    def __init__(self, step: Step, loader: Loader, sums: Sums, wish: StopWish, save_every: int | None) -> None:
        self.step, self.loader, self.sums, self.wish, self.save_every = step, loader, sums, wish, save_every
        self.forecast = Forecast(0, shown=False)
        self.look_every = 1 if step.world.device.type == "cpu" else SHOW_EVERY

    def epoch(self, epoch: int, done: int, rates: Sequence[float], save: Callable[[int], None], title: str) -> float:
        """Run the steps of an epoch after the first `done`, each with its learning rate; the seconds they took.

        `save(steps)` is called on every rank after each `save_every` steps. Raises Stopped where a stop is wished, with
        everything saved up to there, and RunError where the loss or a gradient is not finite.
        """
        step, world, steps = self.step, self.step.world, len(self.loader)
        step.bare.train()
        start = time.perf_counter()
        number = done

        def stop_if_all_agree() -> None:
            if world.any(self.wish.asked):
                if number > done:
                    self.look(epoch, number)
                save(number)
                raise Stopped

        def stop_waiting() -> None:
            if self.wish.asked:  # the others meet this process before their next step
                stop_if_all_agree()

        with bar(title, world.main, total=steps, initial=done, unit="step") as shown:
            for batch in self.loader.epoch(epoch, done, world.timeout_s, stop_waiting):
                stop_if_all_agree()
                number += 1
                for group in step.optimizer.param_groups:
                    group["lr"] = rates[number - 1]
                step(batch, self.sums)
                if number % self.look_every == 0 or number in (done + 1, steps):
                    self.look(epoch, number)
                    speed = (number - done) * self.loader.batches.batch_size / (time.perf_counter() - start)
                    mean = float(self.sums.loss[0]) / max(float(self.sums.loss[1]), 1)
                    shown.set_postfix_str(f"loss {mean:.3f}, {speed:.1f} images/s", refresh=False)
                self.forecast.step(number - done, steps)
                shown.update()
                if self.save_every and number % self.save_every == 0 and number < steps:
                    self.look(epoch, number)
                    save(number)
        return time.perf_counter() - start

    def look(self, epoch: int, number: int) -> None:
        """Wait for the device and see whether all was finite so far. Raises RunError naming the batch where it was not."""
        loss = float(self.sums.loss[0])
        if math.isfinite(loss) and not float(self.step.failed):
            return
        what = "a gradient" if math.isfinite(loss) else f"the loss ({loss})"
        number -= self.step.calls - int(self.step.updates) - 1  # the first that made no update
        files = [self.loader.dataset.where(index) for index in self.loader.batches.whole(epoch)[number - 1]]
        raise RunError(listing(f"epoch {epoch}, step {number}: {what} is not finite, and no update was made with it; look at"
                               " these files, or go on from the newest checkpoint with a lower --learning-rate or --clip in"
                               " another --run", files))  # fmt: skip


def learning_rates(schedule: str, base: float, epoch: int, epochs: int, steps: int, warmup: float = 0) -> list[float]:
    """The learning rate of every step of an epoch (1, 2, ...): a rise over `warmup` epochs from zero to `base`, then
    constant, or half a cosine down to zero at the end.

    A pure function of the position, so that nothing of it has to be saved to go on later.
    """
    rates = []
    for step in range(steps):
        position = epoch - 1 + step / steps
        rise = min(1.0, (position + 1 / steps) / warmup) if warmup else 1.0
        fall = 1.0
        if schedule == "cosine" and position >= warmup:
            fall = 0.5 * (1 + math.cos(math.pi * (position - warmup) / max(epochs - warmup, 1 / steps)))
        rates.append(base * rise * fall)
    return rates
