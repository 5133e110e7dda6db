"""A process that prepares one piece of work and then runs it each time a command arrives on standard input.

python -m tests.benchmarks.training_worker step {naive,naive-malloc,trainer,checkpointing,bf16} MODEL WIDTH BATCH_SIZE
python -m tests.benchmarks.training_worker epoch {naive,trainer} DATA MODEL WIDTH BATCH_SIZE
python -m tests.benchmarks.training_worker loader {uncached,classic,street} DATA BATCH_SIZE
python -m tests.benchmarks.training_worker inference torch MODEL WIDTH
python -m tests.benchmarks.training_worker validation {serial,parallel} MODEL WIDTH BATCH_SIZE

Commands, one per line, each answered with one line of numbers:
    run                 the seconds that the work took, and the peak resident memory of the process in KiB
    convolution-share   fraction of the work's time that convolutions take
    tensor-peak         peak bytes of the tensors that the work allocates
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from core.backends.torch_cpu import backend_from_network
from core.data.datasets import open_dataset
from core.data.labels import CITYSCAPES
from core.images.resize import Preprocess
from core.inference.segmenter import Segmenter
from core.models import build_model
from core.models.r2unet import RecurrentResidualBlock
from core.runtime import threads
from core.runtime.malloc import tune_malloc
from tests.benchmarks.naive_training import naive_batches, naive_step
from training.data.augment import AUGMENTATIONS
from training.data.cache import CachedDataset, DecodedCache
from training.data.loader import Batch, DistributedBatchSampler, ThreadedLoader
from training.data.storage import ResizedDataset, SplitIndex, StoragePolicy
from training.distributed.context import DistributedContext
from training.engine.losses import SegmentationLoss
from training.engine.step import EpochAccumulators, TrainStep
from training.engine.validation import validate
from training.synthetic.dataset import SyntheticDataset

NUM_CLASSES = 19
CONTEXT = DistributedContext()
Work = Callable[[], object]


def make_step(model: str, width: int, checkpoint_activations: bool = False, bf16: bool = False) -> TrainStep:
    """Return the training step of the `train` command with its defaults."""
    torch.manual_seed(0)
    network = build_model(model, NUM_CLASSES, width).to(memory_format=torch.channels_last)
    for module in network.modules():
        if isinstance(module, RecurrentResidualBlock):
            module.checkpoint_activations = checkpoint_activations
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    return TrainStep(network.train(), network, optimizer, SegmentationLoss("ce", None, 1), CONTEXT, Preprocess(), bf16=bf16)


def step_work(kind: str, model: str, width: str, batch_size: str) -> Work:
    labels = torch.randint(0, NUM_CLASSES, (int(batch_size), 256, 256), dtype=torch.uint8)
    if kind != "naive":
        tune_malloc()
    if kind.startswith("naive"):
        network = build_model(model, NUM_CLASSES, int(width)).train()
        optimizer = torch.optim.Adam(network.parameters(), fused=False)
        images, targets = torch.randn(int(batch_size), 3, 256, 256), labels.long()
        return lambda: naive_step(network, optimizer, images, targets)
    step = make_step(model, int(width), kind == "checkpointing", kind == "bf16")
    accumulators = EpochAccumulators(NUM_CLASSES, CONTEXT.device)
    batch = Batch(torch.randint(0, 256, (int(batch_size), 256, 256, 3), dtype=torch.uint8), labels)
    return lambda: step(batch, accumulators)


def make_loader(data: str, augmentation: str, batch_size: int, cached: bool) -> ThreadedLoader:
    """Return a loader of the training split at 256x256, from a cache of decoded images or from the image files."""
    preprocess = Preprocess(mode=AUGMENTATIONS[augmentation].mode, size=(256, 256), stride=8)
    augment = AUGMENTATIONS[augmentation](preprocess)
    dataset = open_dataset(data, "train")
    sampler = DistributedBatchSampler(len(dataset), batch_size, seed=0)
    if not cached:
        resized = ResizedDataset(dataset, augment.storage_policy, SplitIndex(pixels=[]))
        return ThreadedLoader(resized, augment, sampler, threads=2)
    directory = Path(tempfile.gettempdir(), "benchmark-cache")
    index = DecodedCache(dataset, augment.storage_policy, directory).build(skip_bad=False, log=lambda _: None)
    return ThreadedLoader(CachedDataset(dataset, directory, index), augment, sampler, threads=2)


def epoch_work(kind: str, data: str, model: str, width: str, batch_size: str) -> Work:
    if kind == "naive":
        preprocess = Preprocess(mode="stretch", size=(256, 256), stride=8)
        network = build_model(model, NUM_CLASSES, int(width)).train()
        optimizer = torch.optim.Adam(network.parameters(), fused=False)
        dataset, augment = open_dataset(data, "train"), AUGMENTATIONS["classic"](preprocess)

        def naive_epoch() -> None:
            for images, labels in naive_batches(dataset, augment, preprocess, int(batch_size)):
                naive_step(network, optimizer, images, labels)

        return naive_epoch
    tune_malloc()
    step, accumulators = make_step(model, int(width)), EpochAccumulators(NUM_CLASSES, CONTEXT.device)
    loader = make_loader(data, "classic", int(batch_size), cached=True)

    def trainer_epoch() -> None:
        for batch in loader.iter_epoch(1):
            step(batch, accumulators)

    return trainer_epoch


def loader_work(kind: str, data: str, batch_size: str) -> Work:
    cached = kind != "uncached"
    loader = make_loader(data, kind if cached else "classic", int(batch_size), cached)

    def read_epochs() -> None:
        for epoch in range(4 if cached else 1):  # one cached epoch would be too short to measure
            for _ in loader.iter_epoch(epoch):
                pass

    return read_epochs


def inference_work(kind: str, model: str, width: str) -> Work:
    network = build_model(model, NUM_CLASSES, int(width)).eval()
    segmenter = Segmenter.from_backend(backend_from_network(network, Preprocess(stride=16), CONTEXT.device), CITYSCAPES)
    image = np.random.default_rng(0).integers(0, 256, (360, 480, 3), np.uint8)
    return lambda: [segmenter(image) for _ in range(5)]


def validation_work(kind: str, model: str, width: str, batch_size: str) -> Work:
    if kind == "serial":
        threads.NUM_CPUS = 1
    preprocess = Preprocess(mode="fit", size=(256, 256), stride=8)
    scenes = SyntheticDataset("val", int(batch_size), (1024, 2048))  # generates its scenes on first access only
    dataset = ResizedDataset(scenes, StoragePolicy(preprocess, full_size_labels=True), SplitIndex(pixels=[]))
    network = build_model(model, NUM_CLASSES, int(width)).eval()
    segmenter = Segmenter.from_backend(backend_from_network(network, preprocess, CONTEXT.device), dataset.labels)
    return lambda: validate(segmenter, dataset, int(batch_size), CONTEXT)


def convolution_share(work: Work) -> float:
    """Return the fraction of the time that convolutions take, forward and backward."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    times = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    return sum(time for key, time in times.items() if "convolution" in key) / sum(times.values())


def tensor_peak(work: Work) -> float:
    """Return the peak of the bytes that tensors take beyond those that exist before the work starts."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    kineto_events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    allocations = sorted((event.start_ns(), event.nbytes()) for event in kineto_events if event.name() == "[memory]")
    allocated = peak = 0
    for _, size in allocations:  # a negative size is a deallocation
        allocated += size
        peak = max(peak, allocated)
    return peak


WORK: dict[str, Callable[..., Work]] = {
    "step": step_work,
    "epoch": epoch_work,
    "loader": loader_work,
    "inference": inference_work,
    "validation": validation_work,
}
MEASUREMENTS: dict[str, Callable[[Work], float]] = {"convolution-share": convolution_share, "tensor-peak": tensor_peak}


def main(kind: str, *arguments: str) -> None:
    work = WORK[kind](*arguments)
    for command in map(str.strip, sys.stdin):
        if command in MEASUREMENTS:
            print(MEASUREMENTS[command](work), flush=True)
            continue
        began = time.perf_counter()
        work()
        print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
