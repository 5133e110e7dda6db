"""`make bench`: every figure of docs/performance.md, each a ratio of two things that took turns in one run.

python -m tests.benchmarks [PART...]      all parts where none is named: step precision loader epoch validation memory ranks,
and of serving large small own overhead beside growth starting accuracy enlarging, and page (needs chromium)
"""

from __future__ import annotations

import csv
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from core.models import build_model
from tests.benchmarks import microbenchmarks, page, serving
from tests.benchmarks.side_by_side import Worker, interleaved
from tests.support.environment_info import machine
from tests.support.kill_resume import Victim
from training.commands.synthesize import write_scene

Line = tuple[str, str, str, str, str]  # what, before, after, ratio, wanted
PICTURES, BATCH = 32, 8


def matrix_rate() -> float:
    """The machine's fp32 matrix rate in GFLOP/s: the fastest of a matrix product and two convolutions of its size.

    The product alone is not the yardstick: on some machines its library is slower than that of the convolutions.
    """
    side = 2048
    a, b = torch.randn(side, side), torch.randn(side, side)
    images = torch.randn(4, 512, 32, 32).contiguous(memory_format=torch.channels_last)
    wide, square = (torch.randn(512, 512, k, k).contiguous(memory_format=torch.channels_last) for k in (1, 3))
    pixels = images.numel() / 512
    best = []
    for work, operations in (
        (lambda: torch.mm(a, b), 2 * side**3),
        (lambda: F.conv2d(images, wide), 2 * pixels * wide.numel()),
        (lambda: F.conv2d(images, square, padding=1), 2 * pixels * square.numel()),
    ):
        work()
        times = []
        for _ in range(9):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        best.append(operations / statistics.median(times) / 1e9)
    return max(best)


def step_work(model: str, width: int, batch: int) -> float:
    """GFLOP of a training step's convolutions, forward and backward."""
    network = build_model(model, 19, width).to("meta")
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(batch, 3, 256, 256, device="meta")).sum().backward()
    return counter.get_total_flops() / 1e9


def step() -> Iterator[Line]:
    for model, width, batch, wanted, share in (
        ("ddunet", 16, 8, "1.7x", ""),
        ("unet", 16, 8, "1.7x", ""),
        ("r2unet", 16, 8, "", ""),
        ("ddunet", 64, 4, "1.3x", "65 %"),
        ("unet", 64, 4, "1.3x", "50 %"),
    ):
        workers = [Worker("step", kind, model, width, batch) for kind in ("plain", "plain-kept", "ours")]
        plain, kept, ours = interleaved(workers, 3 if width > 16 else 5)
        convolutions = workers[2].ask("shares")
        for worker in workers:
            worker.close()
        what = f"step, {model}, width {width}, batch {batch}"
        yield what, f"{plain:.2f} s", f"{ours:.2f} s", f"{plain / ours:.2f}x", wanted
        yield f"{what}: the plain loop with memory kept, too", f"{kept:.2f} s", f"{ours:.2f} s", f"{kept / ours:.2f}x", ""
        rate, done = matrix_rate(), step_work(model, width, batch) / ours
        yield f"{what}: of the matrix rate", f"{rate:.0f} GFLOP/s", f"{done:.0f} GFLOP/s", f"{done / rate:.0%}", share
        yield f"{what}: convolutions' share of the time", "", "", f"{convolutions:.0%}", ""


def precision() -> Iterator[Line]:
    for width, batch in ((16, 8), (64, 4)):
        workers = [Worker("step", kind, "ddunet", width, batch) for kind in ("ours", "bf16")]
        full, half = interleaved(workers, 3)
        for worker in workers:
            worker.close()
        what = f"step, ddunet, width {width}, batch {batch}: --precision fp32, then bf16"
        yield what, f"{full:.2f} s", f"{half:.2f} s", f"{full / half:.2f}x", ""


def large_pictures() -> Path:
    """Scenes of 2048x1024 as PNG, as large as those of Cityscapes."""
    folder = Path(tempfile.gettempdir(), f"benchmark-scenes-{PICTURES}")
    for split, count in (("train", PICTURES), ("val", 2)):
        for index in range(count):
            if not (folder / "complete").exists():
                write_scene(folder, split, index, (1024, 2048), seed=0)
    (folder / "complete").touch()
    return folder


def loader() -> Iterator[Line]:
    data = large_pictures()
    workers = [Worker("loader", kind, data, BATCH) for kind in ("read", "classic", "street")]
    read, classic, street = interleaved(workers, 5)
    for worker in workers:
        worker.close()
    before = PICTURES / read
    for name, seconds, wanted in (("classic", classic, "2,000 images/s"), ("street", street, "400 images/s")):
        after = 4 * PICTURES / seconds
        yield (
            f"loader alone, 2048x1024 PNG to 256x256, {name}",
            f"{before:.0f} images/s",
            f"{after:.0f} images/s",
            f"{after / before:.0f}x",
            wanted,
        )


def epoch() -> Iterator[Line]:
    data = large_pictures()
    workers = [Worker("epoch", kind, data, "ddunet", 16, BATCH) for kind in ("plain", "ours")]
    plain, ours = interleaved(workers, 3)
    for worker in workers:
        worker.close()
    what = f"epoch of {PICTURES} PNGs of 2048x1024, ddunet, width 16, second epoch on"
    yield what, f"{plain:.1f} s", f"{ours:.1f} s", f"{plain / ours:.2f}x", "2.5x"


def validation() -> Iterator[Line]:
    for width in (16, 4):
        workers = [Worker("validation", kind, "ddunet", width, BATCH) for kind in ("serial", "ours")]
        serial, ours = (BATCH / seconds for seconds in interleaved(workers, 5))
        for worker in workers:
            worker.close()
        what = f"validation at 2048x1024, ddunet, width {width}: labels and scores one after another, then in threads"
        yield what, f"{serial:.1f} images/s", f"{ours:.1f} images/s", f"{ours / serial:.2f}x", ""


def memory() -> Iterator[Line]:
    for width, batch in ((64, 2), (16, 8)):
        workers = [Worker("step", kind, "r2unet", width, batch) for kind in ("ours", "recompute")]
        kept, again = interleaved(workers, 3)
        tensors = [worker.ask("memory") / 1e9 for worker in workers]
        for worker in workers:
            worker.close()
        # weights, their gradients and Adam's two averages are there before a step begins
        fixed = 16e-9 * sum(p.numel() for p in build_model("r2unet", 19, width).parameters())
        what = f"--checkpoint-activations, r2unet, width {width}, batch {batch}"
        for name, before, after, wanted in (
            ("tensors' peak", *(fixed + t for t in tensors), "60 %"),
            ("the process's peak, libraries and gaps included", *(worker.peak / 1e9 for worker in workers), ""),
        ):
            yield f"{what}: {name}", f"{before:.2f} GB", f"{after:.2f} GB", f"{after / before:.0%}", wanted
        yield f"{what}: time", f"{kept:.2f} s", f"{again:.2f} s", f"{again / kept:.2f}x", "1.4x"


def ranks() -> Iterator[Line]:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "scenes")
        for split, count in (("train", 64), ("val", 2)):
            for index in range(count):
                write_scene(data, split, index, (256, 512), seed=0)
        flags = ("--width", 16, "--size", 256, 256, "--batch-size", 8, "--epochs", 2, "--checkpoint-every", 999)
        speeds: dict[int, list[float]] = {1: [], 2: []}
        for turn in range(3):
            for processes in (1, 2):
                victim = Victim(data, Path(folder, f"{turn}-{processes}"), processes, flags)
                victim.whole()
                with (victim.folder / "history.csv").open() as file:
                    speeds[processes].append(float(list(csv.DictReader(file))[-1]["images_per_s"]))
                shutil.rmtree(victim.folder)
    one, two = (statistics.median(speeds[processes]) for processes in (1, 2))
    what = "two ranks of one thread against one process of two, ddunet, width 16, batch 8, --precision auto"
    yield what, f"{one:.1f} images/s", f"{two:.1f} images/s", f"{two / one:.2f}x", "0.9x"


PARTS: dict[str, Callable[[], Iterator[Line]]] = {
    **serving.PARTS,
    **microbenchmarks.PARTS,
    **page.PARTS,
    "step": step,
    "precision": precision,
    "loader": loader,
    "epoch": epoch,
    "validation": validation,
    "memory": memory,
    "ranks": ranks,
}


def main(*parts: str) -> None:
    print(f"{machine()}\n")
    print("| what | before | after | ratio | wanted |\n|---|---|---|---|---|")
    for part in parts or PARTS:
        for line in PARTS[part]():
            print(f"| {' | '.join(line)} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
