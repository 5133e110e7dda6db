"""Lanes of a GPU: a stream each, on which a picture's kernels run one by one or launched together as a CUDA graph."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

SHAPES = 16  # of the input: so many graphs are kept for each lane
_CAPTURING = threading.Lock()  # one at a time in a process
Run = Callable[[Tensor], Tensor]  # a picture (h, w, 3) uint8 on the device to its logits (K, h, w) float32


class Lane:
    """Where one picture at a time runs: a stream, and the graphs that are replayed on it, or what stream is the current one.

    Graphs share their memory: they run one after another, and what they leave is copied before the next one begins.
    """

    def __init__(self, device: torch.device, own_stream: bool, captured: bool) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if own_stream else None  # type: ignore[no-untyped-call]
        self.pool: Any = torch.cuda.graph_pool_handle() if captured else None
        self.graphs: OrderedDict[torch.Size, _Graph] = OrderedDict()

    def begin(self, run: Run, picture: Tensor) -> Tensor:
        """Begin a picture (h, w, 3) uint8 of the host and return what will be its logits (K, h, w) float32 on the device."""
        with torch.cuda.stream(self.stream) if self.stream is not None else nullcontext():
            if self.pool is not None:
                return self._graph(run, picture)(picture)
            return run(picture.to(self.device, non_blocking=True))

    def finish(self) -> None:
        """Wait until what was begun on an own stream is done."""
        if self.stream is not None:
            self.stream.synchronize()

    def _graph(self, run: Run, picture: Tensor) -> _Graph:
        graph = self.graphs.pop(picture.shape, None) or _Graph(run, picture.shape, self.device, self.pool)
        self.graphs[picture.shape] = graph
        if len(self.graphs) > SHAPES:
            self.graphs.popitem(last=False)
        return graph


class _Graph:
    """The kernels of one shape of picture, launched together on the current stream."""

    def __init__(self, run: Run, shape: torch.Size, device: torch.device, pool: Any) -> None:
        self.graph = torch.cuda.CUDAGraph()
        # not on the lane's stream: streams come from a small pool, and a back end of another model may run on the same one
        stream = _capture_stream(device)
        with _CAPTURING, torch.cuda.stream(stream):
            self.picture = torch.zeros(shape, dtype=torch.uint8, device=device)
            for _ in range(3):  # what is done at the first runs only must not be captured
                run(self.picture)
            # other threads decode and copy meanwhile: that must not spoil it
            with torch.cuda.graph(self.graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                self.logits = run(self.picture)
            stream.synchronize()

    def __call__(self, picture: Tensor) -> Tensor:
        self.picture.copy_(picture, non_blocking=True)
        self.graph.replay()
        return self.logits.clone()


@cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]
