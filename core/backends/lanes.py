"""Lanes of a GPU: a stream each, on which a picture's kernels run one by one or launched together as a CUDA graph."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

SHAPES = 16  # of the input: so many graphs are kept for each lane
_CAPTURING = threading.Lock()  # one at a time in a process


class Lane:
    """Where one picture at a time runs: a stream, and the graphs that were captured on it."""

    def __init__(self, run: Callable[[Tensor], Tensor], device: torch.device, captured: bool) -> None:
        self.run, self.device, self.captured = run, device, captured
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self.graphs: OrderedDict[torch.Size, _Graph] = OrderedDict()

    def __call__(self, picture: Tensor) -> Tensor:
        """Begin a picture (h, w, 3) uint8 and return what will be its logits (K, h, w) float32 on the device."""
        with torch.cuda.stream(self.stream):
            x = picture.to(self.device, non_blocking=True)
            return self._graph(x)(x) if self.captured else self.run(x)

    def finish(self) -> None:
        """Wait until what was begun is done."""
        if self.stream is not None:
            self.stream.synchronize()

    def _graph(self, x: Tensor) -> _Graph:
        graph = self.graphs.pop(x.shape, None) or _Graph(self.run, x)
        self.graphs[x.shape] = graph
        if len(self.graphs) > SHAPES:
            self.graphs.popitem(last=False)
        return graph


class _Graph:
    """The kernels of one input shape, launched together; captured on the current stream."""

    def __init__(self, run: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self.x, self.graph = x.clone(), torch.cuda.CUDAGraph()
        for _ in range(3):  # what is done at the first runs only must not be captured
            run(self.x)
        stream = torch.cuda.current_stream()
        # other threads decode and copy meanwhile: that must not spoil it
        with _CAPTURING, torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
            self.logits = run(self.x)

    def __call__(self, x: Tensor) -> Tensor:
        self.x.copy_(x)
        self.graph.replay()
        return self.logits.clone()
