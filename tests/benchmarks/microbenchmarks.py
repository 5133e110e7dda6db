"""The figures of the service and its parts alone: memory, start, accuracy of artefacts, enlarging, masks."""

from __future__ import annotations

import http.client
import os
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import psutil

from core.checkpoints.checkpoint import read_checkpoint, shipped
from core.checkpoints.exported import beside, read_artefact
from core.data.datasets import open_dataset
from core.images.decode import read_photo
from core.images.encode import indexed_png
from core.inference import upsample
from core.inference.segmenter import Segmenter
from tests.benchmarks import load
from tests.benchmarks.servers.start import OURS as COMMAND
from tests.benchmarks.servers.start import ROOT
from tests.benchmarks.serving import LARGE, OURS, TORCH, Line, at_256, photographs, started
from training.synthetic.scenes import street_scene


def growth() -> Iterator[Line]:
    bodies = photographs(LARGE, ".jpg")
    for kind in (OURS, TORCH):
        with ExitStack() as stack:
            (server,) = started(stack, (kind,), at_256("ddunet"), bodies)
            begin, samples = server.memory, []
            with ThreadPoolExecutor(1) as pool:
                running = pool.submit(load.closed, server.port, bodies, 16, 61)
                since = time.perf_counter()
                while not running.done():
                    samples.append((time.perf_counter() - since, server.memory))
                    time.sleep(0.2)
            early, late = (max(memory for at, memory in samples if to - 5 < at <= to) for to in (10, 60))
            yield f"memory before any load: {kind}", "", f"{begin / 1e6:.0f} MB", "", ""
            what = f"memory while 16 clients post 2048x1024, the most in five seconds, to the 10th and to the 60th: {kind}"
            yield what, f"{early / 1e6:.0f} MB", f"{late / 1e6:.0f} MB", f"{late / early:.2f}", "1.0"


def starting() -> Iterator[Line]:
    seconds, memory = [], []
    for _ in range(7):
        with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            free.close()
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "SEGMENT_PORT": str(port)}
            began = time.perf_counter()
            process = subprocess.Popen(COMMAND, env=environment, cwd=folder, stderr=subprocess.DEVNULL)
            while not ready(port):
                time.sleep(0.01)
            seconds.append(time.perf_counter() - began)
            memory.append(psutil.Process(process.pid).memory_info().rss)
            process.terminate()
            process.wait()
    yield "start of a service with the checkpoints that ship, to ready", "", f"{statistics.median(seconds):.2f} s", "", "2 s"
    yield "its resident memory then", "", f"{statistics.median(memory) / 1e6:.0f} MB", "", "300 MB"


def ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def accuracy() -> Iterator[Line]:
    """What an artefact costs, where CamVid lies in the README's place."""
    from openvino import Core

    from training.export import openvino

    place = ROOT / "datasets" / "camvid"
    if not place.is_dir():
        yield f"int8 and fp32 against torch: no data in {place.relative_to(ROOT)}", "", "", "", ""
        return
    data = open_dataset(place, "val")
    for name, path in shipped().items():
        checkpoint = read_checkpoint(path)
        files = read_artefact(beside(path, "int8"), checkpoint.digest).files
        networks = {"int8": Core().read_model(files["model.xml"], files["model.bin"]), "fp32": openvino.convert(checkpoint)}
        for precision, least in (("int8", "98.5 %"), ("fp32", "99.99 %")):
            measured = openvino.measure(checkpoint, networks[precision], precision, data)
            before, after = (100 * (s.macro_iou_labelled or 0) for s in (measured.source_scores, measured.scores))
            what = f"{name}, CamVid val, macro IoU, then the same class: torch fp32, then OpenVINO {precision}"
            yield what, f"{before:.2f}", f"{after:.2f}", f"{100 * measured.same_pixels:.5f} %", least


def enlarging() -> Iterator[Line]:
    segmenter = Segmenter(at_256("ddunet"))
    street = [read_photo(ROOT / "docs" / "street.jpg")]
    scenes = [street_scene(np.random.default_rng(seed), *LARGE)[0] for seed in range(4)]
    for what, photos in (("a photograph", street), ("generated scenes, which it was not trained on", scenes)):
        logits = [segmenter.forward(segmenter.prepare(rgb)[None])[0] for rgb in photos]
        for one in logits:
            assert np.array_equal(upsample._label_all(one, LARGE), upsample.label_map(one, LARGE))
        calls = (upsample._label_all, upsample.label_map)
        times: list[list[float]] = [[], []]
        for _ in range(15):
            for one in logits:
                for call, taken in zip(calls, times, strict=True):
                    taken.append(seconds(call, one, LARGE))
        whole, borders = (1000 * statistics.median(taken) for taken in times)
        told = f"19x256x256 logits of {what} to labels of 1024x2048, none different: whole, then borders only"
        yield told, f"{whole:.1f} ms", f"{borders:.1f} ms", f"{borders / whole:.0%}", "25 %"
    labels = upsample.label_map(logits[0], LARGE)
    mask = statistics.median(seconds(indexed_png, labels, segmenter.labels) for _ in range(15))
    yield "labels of 1024x2048 to an indexed PNG", "", f"{1000 * mask:.1f} ms", "", "5 ms"


def seconds(call: Callable[..., object], *arguments: object) -> float:
    began = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - began


PARTS: dict[str, Callable[[], Iterator[Line]]] = {
    "growth": growth,
    "starting": starting,
    "accuracy": accuracy,
    "enlarging": enlarging,
}
