"""Benchmarks of the service's memory and startup, and of single operations: upsampling, PNG encoding, export accuracy."""

from __future__ import annotations

import http.client
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import psutil

from core.checkpoints.checkpoint import bundled_checkpoints, read_checkpoint
from core.checkpoints.exported import export_dir, read_exported_model
from core.data.datasets import open_dataset
from core.images.decode import decode_image
from core.images.encode import encode_indexed_png
from core.inference import upsample
from core.inference.segmenter import Segmenter
from tests.benchmarks.load_generator import closed_loop
from tests.benchmarks.rows import Row
from tests.benchmarks.servers.launch import OPENVINO, THIS_SERVICE, TORCH
from tests.benchmarks.serving import LARGE, bundled_at_256, request_bodies, start_servers
from tests.support.paths import ROOT
from tests.support.ports import free_port
from training.synthetic.scenes import street_scene


def memory_growth() -> Iterator[Row]:
    bodies = request_bodies(LARGE, ".jpg")
    for kind in (OPENVINO, TORCH):
        with ExitStack() as stack:
            (server,) = start_servers(stack, (kind,), bundled_at_256("ddunet"), bodies)
            initial, samples = server.memory, []
            with ThreadPoolExecutor(1) as pool:
                load = pool.submit(closed_loop, server.port, bodies, clients=16, seconds=61)
                began = time.perf_counter()
                while not load.done():
                    samples.append((time.perf_counter() - began, server.memory))
                    time.sleep(0.2)
            early, late = (max(memory for at, memory in samples if end - 5 < at <= end) for end in (10, 60))
            yield Row(f"memory before the first request: {kind}", result=f"{initial / 1e6:.0f} MB")
            what = f"peak memory with 16 clients and 2048x1024 JPEGs, seconds 5 to 10, then 55 to 60: {kind}"
            yield Row(what, f"{early / 1e6:.0f} MB", f"{late / 1e6:.0f} MB", f"{late / early:.2f}", "1.0")


def startup() -> Iterator[Row]:
    seconds, memory = [], []
    for _ in range(7):
        with tempfile.TemporaryDirectory() as directory:
            port = free_port()
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "SEGMENT_PORT": str(port)}
            began = time.perf_counter()
            process = subprocess.Popen(THIS_SERVICE, env=environment, cwd=directory, stderr=subprocess.DEVNULL)
            while not is_ready(port):
                time.sleep(0.01)
            seconds.append(time.perf_counter() - began)
            memory.append(psutil.Process(process.pid).memory_info().rss)
            process.terminate()
            process.wait()
    yield Row("start of a service with the bundled models until it is ready", result=f"{statistics.median(seconds):.2f} s",
              target="2 s")  # fmt: skip
    yield Row("resident memory after the start", result=f"{statistics.median(memory) / 1e6:.0f} MB", target="300 MB")


def is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def export_accuracy() -> Iterator[Row]:
    """Compare exported models with torch; needs CamVid in datasets/camvid."""
    from openvino import Core

    from training.export import openvino

    directory = ROOT / "datasets" / "camvid"
    if not directory.is_dir():
        yield Row(f"int8 and fp32 exports against torch: skipped, there is no data in {directory.relative_to(ROOT)}")
        return
    dataset = open_dataset(directory, "val")
    for name, path in bundled_checkpoints().items():
        checkpoint = read_checkpoint(path)
        files = read_exported_model(export_dir(path, "int8"), checkpoint.digest).files
        models = {"int8": Core().read_model(files["model.xml"], files["model.bin"]), "fp32": openvino.convert(checkpoint)}
        for precision, target in (("int8", "98.5 %"), ("fp32", "99.99 %")):
            scores = openvino.measure(checkpoint, models[precision], precision, dataset)
            torch_miou, export_miou = (100 * (s.miou_present or 0) for s in (scores.checkpoint_scores, scores.scores))
            yield Row(
                f"{name}, CamVid val, mIoU, and pixels of the same class: torch fp32, then OpenVINO {precision}",
                f"{torch_miou:.2f}",
                f"{export_miou:.2f}",
                f"{100 * scores.pixel_agreement:.5f} %",
                target,
            )


def upsampling() -> Iterator[Row]:
    segmenter = Segmenter(bundled_at_256("ddunet"))
    street = [decode_image((ROOT / "docs" / "street.jpg").read_bytes())]
    scenes = [street_scene(np.random.default_rng(seed), *LARGE)[0] for seed in range(4)]
    for what, images in (("a street image", street), ("generated scenes (out of domain)", scenes)):
        all_logits = [segmenter.forward(segmenter.preprocess_image(rgb)[None])[0] for rgb in images]
        for logits in all_logits:
            assert np.array_equal(upsample._argmax_dense(logits, LARGE), upsample.upsample_argmax(logits, LARGE))
        dense_times: list[float] = []
        boundary_times: list[float] = []
        for _ in range(15):
            for logits in all_logits:
                dense_times.append(elapsed(upsample._argmax_dense, logits, LARGE))
                boundary_times.append(elapsed(upsample.upsample_argmax, logits, LARGE))
        dense, boundary = (1000 * statistics.median(times) for times in (dense_times, boundary_times))
        yield Row(
            f"argmax of 19x256x256 logits of {what} at 1024x2048, identical labels: all pixels, then boundaries only",
            f"{dense:.1f} ms",
            f"{boundary:.1f} ms",
            f"{boundary / dense:.0%}",
            "25 %",
        )
    labels = upsample.upsample_argmax(all_logits[0], LARGE)
    encode = statistics.median(elapsed(encode_indexed_png, labels, segmenter.labels) for _ in range(15))
    yield Row("encode labels of 1024x2048 as an indexed PNG", result=f"{1000 * encode:.1f} ms", target="5 ms")


def elapsed(call: Callable[..., object], *arguments: object) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - began


PARTS: dict[str, Callable[[], Iterator[Row]]] = {
    "memory-growth": memory_growth,
    "startup": startup,
    "export-accuracy": export_accuracy,
    "upsampling": upsampling,
}
