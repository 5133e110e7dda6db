"""Benchmarks of serving: this service and naive ones under the same load, with the same checkpoint and images, in turns."""

from __future__ import annotations

import http.client
import io
import json
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from core.checkpoints.checkpoint import PRETRAINED, bundled_checkpoints, read_checkpoint, write_checkpoint
from core.checkpoints.exported import read_exported_model, write_exported_model
from core.images.encode import encode_indexed_png
from core.images.resize import Preprocess
from core.inference.segmenter import Segmenter
from core.runtime.cpu import NUM_CPUS
from service.api.multipart import parse_form
from tests.benchmarks.load_generator import BOUNDARY, LoadResult, closed_loop, form_body, open_loop
from tests.benchmarks.rows import Row
from tests.benchmarks.servers.launch import (
    BENTOML,
    FASTAPI,
    LITSERVE,
    OPENVINO,
    TORCH,
    TUNED,
    TUNED_BILINEAR,
    Server,
)
from tests.support.checkpoints import make_checkpoint
from tests.support.paths import ROOT
from training.synthetic.dataset import write_scene
from training.synthetic.scenes import street_scene

CONTENT_TYPES = {".jpg": "image/jpeg", ".png": "image/png"}
LARGE, SMALL = (1024, 2048), (256, 256)  # height, width
WORK_DIR = Path(tempfile.gettempdir(), "benchmark-serving")
Load = Callable[[Server], LoadResult]


@cache
def request_bodies(size: tuple[int, int], suffix: str) -> list[bytes]:
    """Return forms with generated scenes of `size` (height, width), encoded as JPEG (".jpg") or PNG (".png")."""
    scenes = [street_scene(np.random.default_rng(seed), *size)[0] for seed in range(4)]
    return [form_body(cv2.imencode(suffix, rgb[..., ::-1])[1].tobytes(), CONTENT_TYPES[suffix]) for rgb in scenes]


def bundled_at_256(name: str) -> Path:
    """Return a copy of a bundled checkpoint and its int8 export that stretches images to 256x256."""
    checkpoint = read_checkpoint(PRETRAINED / f"{name}.safetensors")
    stride = checkpoint.metadata.preprocess.stride
    preprocess = Preprocess(mode="stretch", size=SMALL, stride=stride, reduce_jpeg=True)
    path = WORK_DIR / f"{name}.safetensors"
    WORK_DIR.mkdir(exist_ok=True)
    digest = write_checkpoint(path, checkpoint.metadata.model_copy(update={"preprocess": preprocess}), checkpoint.tensors)
    exported = read_exported_model(PRETRAINED / f"{name}.int8", checkpoint.digest)
    manifest = exported.manifest.model_copy(update={"checkpoint_digest": digest})
    write_exported_model(WORK_DIR / f"{name}.int8", manifest, exported.files)
    return path


def random_at_width_64(name: str) -> Path:
    """Return a checkpoint of width 64 with random weights, with an int8 export beside it."""
    import nncf

    from training.export import openvino

    path = make_checkpoint(WORK_DIR / f"{name}-64.safetensors", name, 64, size=SMALL)
    checkpoint = read_checkpoint(path)
    inputs = [checkpoint.metadata.preprocess(street_scene(np.random.default_rng(seed), *SMALL)[0])[None] for seed in range(4)]
    model = openvino.quantize(openvino.convert(checkpoint), nncf.Dataset(inputs), len(inputs))
    openvino.write_model(checkpoint, "int8", model, None)
    return path


def start_servers(
    stack: ExitStack, kinds: Sequence[str], checkpoint: Path, bodies: Sequence[bytes], **settings: object
) -> list[Server]:
    """Start a server of each kind; `stack` stops them."""
    servers = []
    for kind in kinds:
        servers.append(Server(kind, checkpoint, bodies[0], **settings))
        stack.callback(servers[-1].close)
    return servers


def run_in_turns(servers: Sequence[Server], load: Load, turns: int) -> list[list[LoadResult]]:
    """Put the load on one server after another, `turns` times; return the results by server. The first turn is a warm-up."""
    for server in servers:
        load(server)
    rounds = [[load(server) for server in servers] for _ in range(turns)]
    return [list(results) for results in zip(*rounds, strict=True)]


def closed(bodies: Sequence[bytes], clients: int, seconds: float = 0, requests: int = 0) -> Load:
    """Return a closed-loop load for a duration or a number of requests."""
    return lambda server: closed_loop(server.port, bodies, clients, seconds, requests)


def opened(bodies: Sequence[bytes], rate: float, seconds: float = 6) -> Load:
    """Return an open-loop load at `rate` requests per second."""
    return lambda server: open_loop(server.port, bodies, rate, seconds)


def median_ms(results: Sequence[LoadResult], q: float) -> float:
    """Return the median over the results of a latency quantile, in milliseconds."""
    return 1000 * statistics.median(result.quantile(q) for result in results)


def median_rate(results: Sequence[LoadResult]) -> float:
    """Return the median of the requests per second."""
    return statistics.median(result.requests_per_second for result in results)


def summarize(results: Sequence[LoadResult]) -> str:
    """Format p50 (median of the turns), p95 and p99 (of all turns together, given enough requests) and throughput."""
    merged = LoadResult([seconds for result in results for seconds in result.latencies])
    latencies = [median_ms(results, 0.5)]
    latencies += [1000 * merged.quantile(q) for q, needed in ((0.95, 40), (0.99, 200)) if len(merged.latencies) >= needed]
    errors = sum(result.errors for result in results)
    text = f"{' / '.join(f'{ms:.0f}' for ms in latencies)} ms, {median_rate(results):.1f} requests/s"
    return text + f", {errors} errors" * bool(errors)


def decode_mask(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def large_images() -> Iterator[Row]:
    bodies, checkpoint = request_bodies(LARGE, ".jpg"), bundled_at_256("ddunet")
    kinds = (FASTAPI, LITSERVE, BENTOML, OPENVINO, TORCH)
    targets = {
        (1, FASTAPI, OPENVINO): "7x",
        (1, FASTAPI, TORCH): "3x",
        (1, LITSERVE, OPENVINO): "5x",
        (1, BENTOML, OPENVINO): "5x",
    }
    with ExitStack() as stack:
        servers = start_servers(stack, kinds, checkpoint, bodies)
        reference = decode_mask(servers[0].first_mask)
        for server in servers[1:]:
            agreement = float((decode_mask(server.first_mask) == reference).all(-1).mean())
            yield Row(f"2048x1024 JPEG, pixels of the same class as {FASTAPI}: {server.kind}", result=f"{agreement:.1%}")
        for clients, seconds in ((1, 6), (4, 8), (16, 14)):
            by_kind = dict(zip(kinds, run_in_turns(servers, closed(bodies, clients, seconds), 3), strict=True))
            for baseline in (FASTAPI, LITSERVE, BENTOML):
                for kind in (OPENVINO, TORCH):
                    yield Row(
                        f"2048x1024 JPEG, DDU-Net 16, {clients} clients, p50 / p95 / p99: {baseline}, then {kind}",
                        summarize(by_kind[baseline]),
                        summarize(by_kind[kind]),
                        f"{median_ms(by_kind[baseline], 0.5) / median_ms(by_kind[kind], 0.5):.1f}x",
                        targets.get((clients, baseline, kind), ""),
                    )
        for server in servers:
            yield Row(f"memory after the load: {server.kind}", result=f"{server.memory / 1e6:.0f} MB")
        for rate in (2, 10, 20):
            fast_enough = servers if rate == 2 else servers[-2:]
            for server, results in zip(fast_enough, run_in_turns(fast_enough, opened(bodies, rate), 3), strict=True):
                yield Row(f"open loop, {rate} requests/s: {server.kind}", result=summarize(results))


def tuned_service() -> Iterator[Row]:
    bodies, checkpoint = request_bodies(LARGE, ".jpg"), bundled_at_256("ddunet-cityscapes")
    palette, kinds = read_checkpoint(checkpoint).metadata.labels.palette, (TUNED, TUNED_BILINEAR, FASTAPI, OPENVINO)
    with ExitStack() as stack:
        servers = start_servers(stack, kinds, checkpoint, bodies)
        reference = decode_mask(servers[kinds.index(FASTAPI)].first_mask)
        for server in servers:
            mask = np.asarray(Image.open(io.BytesIO(server.first_mask)))
            colors = palette[mask] if server.kind != FASTAPI else mask
            agreement = float((colors == reference).all(-1).mean())
            yield Row(f"2048x1024 JPEG, pixels of the same class as {FASTAPI}: {server.kind}", result=f"{agreement:.1%}")
            yield Row(f"start of the process to its first mask: {server.kind}", result=f"{server.start_seconds:.1f} s")
        for clients, seconds in ((1, 6), (4, 8), (16, 14)):
            results = dict(zip(kinds, run_in_turns(servers, closed(bodies, clients, seconds), 5), strict=True))
            ours = results[OPENVINO]
            for baseline in kinds[:-1]:
                theirs = results[baseline]
                what = f"2048x1024 JPEG, DDU-Net 16, {clients} clients: {baseline}, then {OPENVINO}"
                ratio = median_ms(theirs, 0.5) / median_ms(ours, 0.5)
                yield Row(f"{what}: p50 / p95 / p99", summarize(theirs), summarize(ours), f"{ratio:.1f}x")
                yield Row(f"{what}: requests/s", ratio=f"{median_rate(ours) / median_rate(theirs):.1f}x")
            if clients == 16:
                seconds_per_image = stage_cpu_seconds(checkpoint, bodies)
                limit = NUM_CPUS / seconds_per_image
                yield Row(
                    "16 clients, requests/s: number of cores / CPU time of the four stages, then the service",
                    f"{limit:.1f}", f"{median_rate(ours):.1f}", f"{median_rate(ours) / limit:.0%}", "80 %",
                )  # fmt: skip
        for server in servers:
            yield Row(f"memory after the load: {server.kind}", result=f"{server.memory / 1e6:.0f} MB")


def stage_cpu_seconds(checkpoint: Path, bodies: Sequence[bytes], repeats: int = 20) -> float:
    """Return the CPU time in seconds, over all threads, of decoding, segmenting and encoding one image."""
    segmenter = Segmenter(checkpoint)
    images = [part.content() for body in bodies for part in parse_form(f"multipart/form-data; boundary={BOUNDARY}", body)]

    def segment(image: bytes) -> bytes:
        return encode_indexed_png(segmenter(image).labels, segmenter.labels)

    for image in images:
        segment(image)
    began = time.process_time()
    for number in range(repeats):
        segment(images[number % len(images)])
    return (time.process_time() - began) / repeats


def small_images() -> Iterator[Row]:
    bodies = request_bodies(SMALL, ".png")
    for name in ("unet", "ddunet"):
        with ExitStack() as stack:
            servers = start_servers(stack, (FASTAPI, OPENVINO), random_at_width_64(name), bodies)
            baseline, result = run_in_turns(servers, closed(bodies, clients=4, requests=12), 3)
            yield Row(
                f"256x256 PNG, {name}, width 64, 4 clients: {FASTAPI}, then {OPENVINO}",
                summarize(baseline),
                summarize(result),
                f"{median_rate(result) / median_rate(baseline):.1f}x",
                "4.5x",
            )


def bundled_models() -> Iterator[Row]:
    images = {"2048x1024 JPEG": request_bodies(LARGE, ".jpg")}
    images["480x360 JPEG"] = [form_body((ROOT / "docs" / "street.jpg").read_bytes(), "image/jpeg")]
    with ExitStack() as stack:
        for name in bundled_checkpoints():
            (server,) = start_servers(stack, (OPENVINO,), PRETRAINED / f"{name}.safetensors", images["480x360 JPEG"])
            for image, bodies in images.items():
                what = f"{image}, bundled {name} (input size 256x320)"
                (single,) = run_in_turns([server], closed(bodies, clients=1, requests=20), 3)
                yield Row(f"{what}, 1 client", result=summarize(single))
                (full,) = run_in_turns([server], closed(bodies, clients=16, requests=160), 3)
                yield Row(f"{what}, 16 clients", result=summarize(full))
                rate = 0.55 * median_rate(full)
                (moderate,) = run_in_turns([server], opened(bodies, rate), 5)
                yield Row(f"{what}, open loop, {rate:.0f} requests/s", result=summarize(moderate))


def overhead() -> Iterator[Row]:
    bodies = request_bodies(LARGE, ".jpg")
    with ExitStack() as stack:
        (server,) = start_servers(stack, (OPENVINO,), bundled_at_256("ddunet"), bodies)
        result = closed_loop(server.port, bodies, clients=1, requests=60)
        stages = [dict(re.findall(r"(\w+);dur=([\d.]+)", timing)) for timing in result.server_timings]
        inference_ms = [sum(float(stage[name]) for name in ("decode", "forward", "label", "encode")) for stage in stages]
        rest = statistics.median(1000 * total - ms for total, ms in zip(result.latencies, inference_ms, strict=True))
        yield Row("2048x1024 JPEG, 1 client: time outside of decode, forward, label and encode", result=f"{rest:.1f} ms",
                  target="3 ms")  # fmt: skip
        results = [closed_loop(server.port, bodies, clients=16, requests=320) for _ in range(3)]
        ratio = median_ms(results, 0.99) / median_ms(results, 0.5)
        yield Row("16 clients: p99 / p50", result=summarize(results), ratio=f"{ratio:.2f}", target="2.5")


def evaluation_under_load() -> Iterator[Row]:
    bodies = request_bodies(LARGE, ".jpg")
    data = WORK_DIR / "scenes"
    if not (data / "complete").exists():
        for index in range(60):
            write_scene(data, "val", index, LARGE, seed=0)
        (data / "complete").touch()
    with ExitStack() as stack:
        (server,) = start_servers(stack, (OPENVINO,), bundled_at_256("ddunet"), bodies, data=data)
        rate = closed_loop(server.port, bodies, clients=4, requests=60).requests_per_second / 4
        requests_alone, requests_mixed = [], []
        evaluations_alone, evaluations_mixed = [], []
        for _ in range(3):
            evaluations_alone.append(evaluate(server))
            requests_alone.append(open_loop(server.port, bodies, rate, 8))
            stop = threading.Event()
            with ThreadPoolExecutor(1) as pool:
                evaluations = pool.submit(evaluate_until, stop, server)
                requests_mixed.append(open_loop(server.port, bodies, rate, 8))
                stop.set()
                evaluations_mixed += evaluations.result()
        alone, mixed = median_ms(requests_alone, 0.5), median_ms(requests_mixed, 0.5)
        yield Row(f"{rate:.1f} requests/s, p50: alone, then during an evaluation", f"{alone:.1f} ms", f"{mixed:.1f} ms",
                  f"{mixed / alone:.2f}", "1.2")  # fmt: skip
        alone, mixed = statistics.median(evaluations_alone), statistics.median(evaluations_mixed)
        yield Row("evaluation: alone, then under these requests", f"{alone:.1f} images/s", f"{mixed:.1f} images/s",
                  f"{mixed / alone:.0%}", "20 %")  # fmt: skip


def evaluate(server: Server) -> float:
    """Run an evaluation by the service and return its images per second."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    connection.request("POST", "/evaluate?wait=true")
    return float(json.loads(connection.getresponse().read())["speed"]["images_per_s"])


def evaluate_until(stop: threading.Event, server: Server) -> list[float]:
    """Run evaluations until `stop` is set; drop the last one, which did not run under load all the time."""
    speeds = []
    while not stop.is_set():
        speeds.append(evaluate(server))
    return speeds[:-1]


PARTS: dict[str, Callable[[], Iterator[Row]]] = {
    "large-images": large_images,
    "tuned-service": tuned_service,
    "small-images": small_images,
    "bundled-models": bundled_models,
    "overhead": overhead,
    "evaluation-under-load": evaluation_under_load,
}
