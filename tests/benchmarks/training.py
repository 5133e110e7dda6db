"""Benchmarks of training: steps, data loading, epochs, validation, memory and data parallelism."""

from __future__ import annotations

import csv
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from core.models import build_model
from tests.benchmarks.interleave import WorkerProcess, interleaved_medians
from tests.benchmarks.rows import Row
from tests.support.training_process import TrainingRun
from training.synthetic.dataset import write_scene

NUM_IMAGES, BATCH_SIZE = 32, 8


@contextmanager
def workers(*arguments: tuple[object, ...]) -> Iterator[list[WorkerProcess]]:
    """Start a worker process per tuple of arguments, and close them at the end."""
    processes = [WorkerProcess(*each) for each in arguments]
    try:
        yield processes
    finally:
        for process in processes:
            process.close()


def matrix_gflops() -> float:
    """Return the fp32 matrix throughput of this computer in GFLOP/s: the fastest of a product and two convolutions.

    The product alone is not the reference, because on some computers its library is slower than that of convolutions.
    """
    side = 2048
    a, b = torch.randn(side, side), torch.randn(side, side)
    images = torch.randn(4, 512, 32, 32).contiguous(memory_format=torch.channels_last)
    kernel_1x1, kernel_3x3 = (torch.randn(512, 512, k, k).contiguous(memory_format=torch.channels_last) for k in (1, 3))
    pixels = images.numel() / 512
    throughputs = []
    for work, operations in (
        (lambda: torch.mm(a, b), 2 * side**3),
        (lambda: F.conv2d(images, kernel_1x1), 2 * pixels * kernel_1x1.numel()),
        (lambda: F.conv2d(images, kernel_3x3, padding=1), 2 * pixels * kernel_3x3.numel()),
    ):
        work()
        times = []
        for _ in range(9):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
        throughputs.append(operations / statistics.median(times) / 1e9)
    return max(throughputs)


def step_gflop(model: str, width: int, batch_size: int) -> float:
    """Return the GFLOP of a training step at 256x256, forward and backward."""
    network = build_model(model, 19, width).to("meta")
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(batch_size, 3, 256, 256, device="meta")).sum().backward()
    return counter.get_total_flops() / 1e9


def training_step() -> Iterator[Row]:
    for model, width, batch_size, speedup_target, utilization_target in (
        ("ddunet", 16, 8, "1.7x", ""),
        ("unet", 16, 8, "1.7x", ""),
        ("r2unet", 16, 8, "", ""),
        ("ddunet", 64, 4, "1.3x", "65 %"),
        ("unet", 64, 4, "1.3x", "50 %"),
    ):
        kinds = ("naive", "naive-malloc", "trainer")
        with workers(*(("step", kind, model, width, batch_size) for kind in kinds)) as processes:
            naive, naive_malloc, trainer = interleaved_medians(processes, 3 if width > 16 else 5)
            convolutions = processes[2].request("convolution-share")
        name = f"step, {model}, width {width}, batch {batch_size}"
        yield Row(f"{name}: naive loop, then this trainer", f"{naive:.2f} s", f"{trainer:.2f} s",
                  f"{naive / trainer:.2f}x", speedup_target)  # fmt: skip
        yield Row(f"{name}: naive loop with tuned malloc, then this trainer", f"{naive_malloc:.2f} s", f"{trainer:.2f} s",
                  f"{naive_malloc / trainer:.2f}x")  # fmt: skip
        peak, achieved = matrix_gflops(), step_gflop(model, width, batch_size) / trainer
        yield Row(f"{name}: matrix throughput, then achieved throughput", f"{peak:.0f} GFLOP/s", f"{achieved:.0f} GFLOP/s",
                  f"{achieved / peak:.0%}", utilization_target)  # fmt: skip
        yield Row(f"{name}: fraction of the time in convolutions", ratio=f"{convolutions:.0%}")


def precision() -> Iterator[Row]:
    for width, batch_size in ((16, 8), (64, 4)):
        with workers(*(("step", kind, "ddunet", width, batch_size) for kind in ("trainer", "bf16"))) as processes:
            fp32, bf16 = interleaved_medians(processes, 3)
        name = f"step, ddunet, width {width}, batch {batch_size}: --precision fp32, then bf16"
        yield Row(name, f"{fp32:.2f} s", f"{bf16:.2f} s", f"{fp32 / bf16:.2f}x")


def large_scenes() -> Path:
    """Return a data set of generated PNGs of 2048x1024, the size of Cityscapes; it is kept for the next run."""
    directory = Path(tempfile.gettempdir(), f"benchmark-scenes-{NUM_IMAGES}")
    if not (directory / "complete").exists():
        for split, count in (("train", NUM_IMAGES), ("val", 2)):
            for index in range(count):
                write_scene(directory, split, index, (1024, 2048), seed=0)
        (directory / "complete").touch()
    return directory


def data_loader() -> Iterator[Row]:
    data = large_scenes()
    with workers(*(("loader", kind, data, BATCH_SIZE) for kind in ("uncached", "classic", "street"))) as processes:
        uncached, classic, street = interleaved_medians(processes, 5)
    baseline = NUM_IMAGES / uncached
    for augmentation, seconds, target in (("classic", classic, "2,000 images/s"), ("street", street, "400 images/s")):
        cached = 4 * NUM_IMAGES / seconds  # a worker reads four cached epochs
        name = f"data loader alone, 2048x1024 PNG to 256x256, {augmentation}: without, then with the cache"
        yield Row(name, f"{baseline:.0f} images/s", f"{cached:.0f} images/s", f"{cached / baseline:.0f}x", target)


def epoch() -> Iterator[Row]:
    data = large_scenes()
    with workers(*(("epoch", kind, data, "ddunet", 16, BATCH_SIZE) for kind in ("naive", "trainer"))) as processes:
        naive, trainer = interleaved_medians(processes, 3)
    name = f"later epochs of {NUM_IMAGES} PNGs of 2048x1024, ddunet, width 16: naive loop, then this trainer"
    yield Row(name, f"{naive:.1f} s", f"{trainer:.1f} s", f"{naive / trainer:.2f}x", "2.5x")


def validation() -> Iterator[Row]:
    for width in (16, 4):
        with workers(*(("validation", kind, "ddunet", width, BATCH_SIZE) for kind in ("serial", "parallel"))) as processes:
            serial, parallel = (BATCH_SIZE / seconds for seconds in interleaved_medians(processes, 5))
        name = f"validation at 2048x1024, ddunet, width {width}: postprocessing in one thread, then in several"
        yield Row(name, f"{serial:.1f} images/s", f"{parallel:.1f} images/s", f"{parallel / serial:.2f}x")


def activation_checkpointing() -> Iterator[Row]:
    for width, batch_size in ((64, 2), (16, 8)):
        kinds = ("trainer", "checkpointing")
        with workers(*(("step", kind, "r2unet", width, batch_size) for kind in kinds)) as processes:
            stored, recomputed = interleaved_medians(processes, 3)
            tensors = [process.request("tensor-peak") / 1e9 for process in processes]
            processes_peak = [process.peak_rss / 1e9 for process in processes]
        # The weights, their gradients and Adam's two moments exist before a step starts: 16 bytes per parameter.
        fixed = 16e-9 * sum(p.numel() for p in build_model("r2unet", 19, width).parameters())
        name = f"without, then with --checkpoint-activations, r2unet, width {width}, batch {batch_size}"
        for what, (before, after), target in (
            ("peak memory of tensors", [fixed + peak for peak in tensors], "60 %"),
            ("peak memory of the process", processes_peak, ""),
        ):
            yield Row(f"{name}: {what}", f"{before:.2f} GB", f"{after:.2f} GB", f"{after / before:.0%}", target)
        yield Row(f"{name}: time", f"{stored:.2f} s", f"{recomputed:.2f} s", f"{recomputed / stored:.2f}x", "1.4x")


def data_parallel() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory, "scenes")
        for split, count in (("train", 64), ("val", 2)):
            for index in range(count):
                write_scene(data, split, index, (256, 512), seed=0)
        flags = ("--width", 16, "--size", 256, 256, "--batch-size", 8, "--epochs", 2, "--checkpoint-every", 999)
        speeds: dict[int, list[float]] = {1: [], 2: []}
        for turn in range(3):
            for world_size in speeds:
                run = TrainingRun(data, Path(directory, f"{turn}-{world_size}"), world_size, flags)
                run.run_to_completion()
                with (run.run_dir / "history.csv").open() as file:
                    speeds[world_size].append(float(list(csv.DictReader(file))[-1]["images_per_s"]))
    one, two = (statistics.median(speeds[world_size]) for world_size in (1, 2))
    name = "one process of two threads, then two ranks of one thread, ddunet, width 16, batch 8, --precision auto"
    yield Row(name, f"{one:.1f} images/s", f"{two:.1f} images/s", f"{two / one:.2f}x", "0.9x")


def shared_cpu() -> Iterator[Row]:
    """Measure what it gains that threads sleep at a barrier, beside processes that use the CPU all the time."""
    spinning, sleeping = {"GOMP_SPINCOUNT": "300000"}, {"OMP_WAIT_POLICY": "PASSIVE"}  # libgomp's default, then that of core
    for title, arguments, count, unit in (
        ("training step, ddunet, width 16, batch 8, bf16", ("step", "bf16", "ddunet", 16, 8), 8, "images/s"),
        ("torch inference, ddunet, width 16", ("inference", "torch", "ddunet", 16), 5, "images/s"),
    ):
        for busy in range(3):
            others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
            processes = [WorkerProcess(*arguments, environment=environment) for environment in (spinning, sleeping)]
            try:
                before, after = (count / seconds for seconds in interleaved_medians(processes, 5))
            finally:
                for process in processes:
                    process.close()
                for other in others:
                    other.kill()
                    other.wait()
            name = f"{title}, beside {busy} busy processes: threads that spin, then threads that sleep"
            yield Row(name, f"{before:.1f} {unit}", f"{after:.1f} {unit}", f"{after / before:.2f}x")


PARTS: dict[str, Callable[[], Iterator[Row]]] = {
    "training-step": training_step,
    "precision": precision,
    "data-loader": data_loader,
    "epoch": epoch,
    "validation": validation,
    "activation-checkpointing": activation_checkpointing,
    "data-parallel": data_parallel,
    "shared-cpu": shared_cpu,
}
