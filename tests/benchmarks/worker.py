"""A process that does one piece of work each time it is told to, and tells the seconds: run by the benchmarks.

python -m tests.benchmarks.worker step {plain,plain-kept,ours,recompute,bf16} MODEL WIDTH BATCH
python -m tests.benchmarks.worker epoch {plain,ours} DATA MODEL WIDTH BATCH
python -m tests.benchmarks.worker loader {read,classic,street} DATA BATCH
python -m tests.benchmarks.worker validation {serial,ours} MODEL WIDTH BATCH
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from core.backends.torch_cpu import in_memory
from core.data.datasets import open_dataset
from core.images.resize import Preprocess
from core.inference.segmenter import Segmenter
from core.models import build_model
from core.models.r2unet import RecurrentResidualBlock
from core.runtime import threads
from core.runtime.malloc import keep_freed_memory
from tests.benchmarks.plain import plain_batches, plain_step
from training.data.augment import RECIPES
from training.data.cache import Cache, CachedDataset
from training.data.loader import Batch, EpochBatches, Loader
from training.data.storage import Contents, Kept, KeptDataset
from training.data.training_data import SyntheticDataset
from training.distributed.context import World
from training.engine.losses import Loss
from training.engine.step import Step, Sums
from training.engine.validation import validate

CLASSES = 19
WORLD = World()


def make_step(model: str, width: int, recompute: bool = False, bf16: bool = False) -> Step:
    """What `train` runs, with its defaults."""
    torch.manual_seed(0)
    network = build_model(model, CLASSES, width).to(memory_format=torch.channels_last)
    for layer in network.modules():
        if isinstance(layer, RecurrentResidualBlock):
            layer.recompute = recompute
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    return Step(network.train(), network, optimizer, Loss("ce", None, 1), WORLD, Preprocess(), bf16=bf16)


def step_work(kind: str, model: str, width: str, batch: str) -> Callable[[], None]:
    labels = torch.randint(0, CLASSES, (int(batch), 256, 256), dtype=torch.uint8)
    if kind != "plain":
        keep_freed_memory()
    if kind.startswith("plain"):
        network = build_model(model, CLASSES, int(width)).train()
        optimizer = torch.optim.Adam(network.parameters(), fused=False)
        images, targets = torch.randn(int(batch), 3, 256, 256), labels.long()
        return lambda: plain_step(network, optimizer, images, targets)
    step, sums = make_step(model, int(width), kind == "recompute", kind == "bf16"), Sums(CLASSES, WORLD.device)
    whole = Batch(torch.randint(0, 256, (int(batch), 256, 256, 3), dtype=torch.uint8), labels)
    return lambda: step(whole, sums)


def loader_of(data: str, recipe: str, batch: int, cached: bool) -> Loader:
    preprocess = Preprocess(mode=RECIPES[recipe].mode, size=(256, 256), stride=8)
    augment = RECIPES[recipe](preprocess)
    dataset = open_dataset(data, "train")
    batches = EpochBatches(len(dataset), batch, seed=0)
    if not cached:
        return Loader(KeptDataset(dataset, augment.keep, Contents(pixels=[])), augment, batches, threads=2)
    folder = Path(tempfile.gettempdir(), "benchmark-cache")
    contents = Cache(dataset, augment.keep, folder).make(False, told=lambda _: None)
    return Loader(CachedDataset(dataset, folder, contents), augment, batches, threads=2)


def epoch_work(kind: str, data: str, model: str, width: str, batch: str) -> Callable[[], None]:
    preprocess = Preprocess(mode="stretch", size=(256, 256), stride=8)
    if kind == "plain":
        network = build_model(model, CLASSES, int(width)).train()
        optimizer = torch.optim.Adam(network.parameters(), fused=False)
        dataset, augment = open_dataset(data, "train"), RECIPES["classic"](preprocess)

        def plain() -> None:
            for images, labels in plain_batches(dataset, augment, preprocess, int(batch)):
                plain_step(network, optimizer, images, labels)

        return plain
    keep_freed_memory()
    step, sums, loader = make_step(model, int(width)), Sums(CLASSES, WORLD.device), loader_of(data, "classic", int(batch), True)

    def ours() -> None:
        for part in loader.epoch(1):
            step(part, sums)

    return ours


def loader_work(kind: str, data: str, batch: str) -> Callable[[], None]:
    recipe = "classic" if kind == "read" else kind
    loader = loader_of(data, recipe, int(batch), cached=kind != "read")
    epochs = 1 if kind == "read" else 4

    def work() -> None:
        for epoch in range(epochs):
            for _ in loader.epoch(epoch):
                pass

    return work


def validation_work(kind: str, model: str, width: str, batch: str) -> Callable[[], None]:
    if kind == "serial":
        threads.CORES = 1
    preprocess = Preprocess(mode="fit", size=(256, 256), stride=8)
    scenes = SyntheticDataset("val", int(batch), (1024, 2048))  # drawn at their first use only
    dataset = KeptDataset(scenes, Kept(preprocess, whole_labels=True), Contents(pixels=[]))
    network = build_model(model, CLASSES, int(width)).eval()
    segmenter = Segmenter.around(in_memory(network, preprocess, WORLD.device), dataset.labels)

    def work() -> None:
        validate(segmenter, dataset, int(batch), WORLD)

    return work


WORK = {"step": step_work, "epoch": epoch_work, "loader": loader_work, "validation": validation_work}


def shares(work: Callable[[], None]) -> float:
    """The part of the time that convolutions take, forward and backward."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        work()
    own = {event.key: event.self_cpu_time_total for event in seen.key_averages()}
    return sum(time for key, time in own.items() if "convolution" in key) / sum(own.values())


def tensors_peak(work: Callable[[], None]) -> float:
    """The most bytes that tensors held beyond what they held at the start: what a device would need for the work."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    events = [(e.start_ns(), e.nbytes()) for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    held = peak = 0
    for _, size in sorted(events):
        held += size
        peak = max(peak, held)
    return peak


QUESTIONS: dict[str, Callable[[Callable[[], None]], float]] = {"shares": shares, "memory": tensors_peak}


def main(what: str, *arguments: str) -> None:
    work = WORK[what](*arguments)
    for line in sys.stdin:
        if line.strip() in QUESTIONS:
            print(QUESTIONS[line.strip()](work), flush=True)
            continue
        start = time.perf_counter()
        work()
        print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
