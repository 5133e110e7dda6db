"""The training loop: the steps of an epoch, from wherever it stopped, and when they are left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from core.datasets import listing
from core.errors import RunError
from training.loading import Loader
from training.progress import bar
from training.signals import StopWish
from training.step import Step, Sums

SHOW_EVERY = 10  # steps between two looks at the loss where the host has to wait for the device to see it


class Stopped(Exception):
    """All ranks have agreed to stop here."""


def train_epoch(
    step: Step,
    loader: Loader,
    sums: Sums,
    epoch: int,
    done: int,
    rates: Sequence[float],
    wish: StopWish,
    save: Callable[[int], None],
    save_every: int | None,
    title: str,
) -> float:
    """Run the steps of an epoch after the first `done`, each with its learning rate; the seconds they took.

    `save(steps)` is called on every rank after each `save_every` steps. Raises Stopped where a stop is wished, with
    everything saved up to there, and RunError where the loss or a gradient is not finite.
    """
    world, steps = step.world, len(loader)
    look_every = 1 if world.device.type == "cpu" else SHOW_EVERY
    step.bare.train()
    start = time.perf_counter()
    with bar(title, world.main, total=steps, initial=done, unit="step") as shown:
        for number, batch in enumerate(loader.epoch(epoch, done, world.timeout_s), done + 1):
            if world.any(wish.asked):
                if number - 1 > done:
                    look(step, loader, sums, epoch, number - 1, look_every)
                save(number - 1)
                raise Stopped
            for group in step.optimizer.param_groups:
                group["lr"] = rates[number - 1]
            step(batch, sums)
            if number % look_every == 0 or number in (done + 1, steps):
                look(step, loader, sums, epoch, number, look_every)
                speed = (number - done) * loader.batches.batch_size / (time.perf_counter() - start)
                mean = float(sums.loss[0]) / max(float(sums.loss[1]), 1)
                shown.set_postfix_str(f"loss {mean:.3f}, {speed:.1f} images/s", refresh=False)
            shown.update()
            if save_every and number % save_every == 0 and number < steps:
                look(step, loader, sums, epoch, number, look_every)
                save(number)
    return time.perf_counter() - start


def look(step: Step, loader: Loader, sums: Sums, epoch: int, number: int, look_every: int) -> None:
    """Wait for the device and see whether all was finite so far. Raises RunError naming the batch where it was not."""
    loss = float(sums.loss[0])
    if math.isfinite(loss) and not float(step.failed):
        return
    what = "a gradient" if math.isfinite(loss) else f"the loss ({loss})"
    first = max(1, number - look_every + 1)
    told = f"step {number}" if first == number else f"one of the steps {first} to {number}"
    files = [loader.dataset.where(i) for batch in loader.batches.whole(epoch)[first - 1 : number] for i in batch]
    raise RunError(listing(f"epoch {epoch}, {told}: {what} is not finite, and no update was made with it; look at these files,"
                           " or go on from the newest checkpoint with a lower --learning-rate or --clip in another --run",
                           files))  # fmt: skip


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
