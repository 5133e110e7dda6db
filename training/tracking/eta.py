"""How long a run will take, told once, after its first steps."""

from __future__ import annotations

import time

from tqdm import tqdm

AFTER = 20  # steps, or an epoch's where there are fewer


class Forecast:
    """Looks at the clock at each step until it has told."""

    def __init__(self, epochs: int, shown: bool = True) -> None:
        self.epochs = epochs  # that are left
        self.told = not shown
        self._began = 0.0

    def step(self, step: int, steps: int) -> None:
        """After the `step`-th step of this process in an epoch of `steps`: print the line once there is something to tell."""
        if step == 1:
            self._began = time.perf_counter()  # the first step is slower than those that follow
        if self.told or step < min(AFTER, steps) or step < 2:
            return
        self.told = True
        epoch = (time.perf_counter() - self._began) / (step - 1) * steps
        told = f"an epoch's steps take about {duration(epoch)}, those of {self.epochs} epochs {duration(epoch * self.epochs)}"
        tqdm.write(f"{'time':>10}  {told}; validation besides")


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `45 min`, `5 h 12 min`, `3 d 4 h`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, days = minutes // 60, minutes // (24 * 60)
    if minutes < 1:
        return f"{rest} s"
    if hours < 1:
        return f"{minutes} min {rest} s" if minutes < 10 else f"{minutes} min"
    if days < 2:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {hours % 24} h"
