"""The figures of serving: ours and plain services with the same checkpoint, photographs and load, in turns."""

from __future__ import annotations

import http.client
import io
import json
import re
import statistics
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from core.checkpoints.checkpoint import PRETRAINED, read_checkpoint, shipped, write_checkpoint
from core.checkpoints.exported import read_artefact, write_artefact
from core.images.resize import Preprocess
from tests.benchmarks import load
from tests.benchmarks.servers.start import COMMANDS, ROOT, Server
from tests.conftest import make_checkpoint
from training.commands.synthesize import write_scene
from training.synthetic.scenes import street_scene

Line = tuple[str, str, str, str, str]  # what, before, after, ratio, wanted
KINDS = {".jpg": "image/jpeg", ".png": "image/png"}
LARGE, SMALL = (1024, 2048), (256, 256)
FASTAPI, LITSERVE, BENTOML, OURS, TORCH = COMMANDS
FOLDER = Path(tempfile.gettempdir(), "benchmark-serving")


@cache
def photographs(size: tuple[int, int], kind: str) -> list[bytes]:
    """Bodies of requests: generated scenes, as a camera would compress them."""
    scenes = [street_scene(np.random.default_rng(seed), *size)[0] for seed in range(4)]
    return [load.form(cv2.imencode(kind, rgb[..., ::-1])[1].tobytes(), KINDS[kind]) for rgb in scenes]


def at_256(name: str) -> Path:
    """A shipped checkpoint and its artefact, told to stretch photographs to 256x256."""
    checkpoint = read_checkpoint(PRETRAINED / f"{name}.safetensors")
    preprocess = Preprocess(mode="stretch", size=SMALL, stride=checkpoint.card.preprocess.stride)
    path = FOLDER / f"{name}.safetensors"
    FOLDER.mkdir(exist_ok=True)
    digest = write_checkpoint(path, checkpoint.card.model_copy(update={"preprocess": preprocess}), checkpoint.tensors)
    artefact = read_artefact(PRETRAINED / f"{name}.int8", checkpoint.digest)
    write_artefact(FOLDER / f"{name}.int8", artefact.card.model_copy(update={"source": digest}), artefact.files)
    return path


def wide(name: str) -> Path:
    """A checkpoint of width 64 and random weights, and its artefact."""
    import nncf

    from training.export import openvino

    path = make_checkpoint(FOLDER / f"{name}-64.safetensors", name, 64, size=SMALL)
    checkpoint = read_checkpoint(path)
    inputs = [checkpoint.card.preprocess(street_scene(np.random.default_rng(seed), *SMALL)[0])[None] for seed in range(4)]
    network = openvino.quantise(openvino.convert(checkpoint), nncf.Dataset(inputs), len(inputs))
    openvino.write_network(checkpoint, "int8", network, None)
    return path


def started(stack: ExitStack, kinds: Sequence[str], checkpoint: Path, bodies: Sequence[bytes], **told: object) -> list[Server]:
    servers = []
    for kind in kinds:
        servers.append(Server(kind, checkpoint, bodies[0], **told))
        stack.callback(servers[-1].close)
    return servers


def in_turns(servers: Sequence[Server], work: Callable[[Server], load.Seen], turns: int) -> list[list[load.Seen]]:
    """What each saw, a turn each that is not counted first."""
    for server in servers:
        work(server)
    rounds = [[work(server) for server in servers] for _ in range(turns)]
    return [list(seen) for seen in zip(*rounds, strict=True)]


def hold_on(bodies: Sequence[bytes], clients: int, seconds: float, server: Server) -> load.Seen:
    return load.closed(server.port, bodies, clients, seconds=seconds)


def at_rate(bodies: Sequence[bytes], rate: float, server: Server) -> load.Seen:
    return load.opened(server.port, bodies, rate, 6)


def crowd(bodies: Sequence[bytes], clients: int, requests: int, server: Server) -> load.Seen:
    return load.closed(server.port, bodies, clients, requests=requests)


def median(seen: Sequence[load.Seen], of: Callable[[load.Seen], float]) -> float:
    return statistics.median(map(of, seen))


def p(share: float) -> Callable[[load.Seen], float]:
    return lambda seen: 1000 * seen.quantile(share)


def row(seen: Sequence[load.Seen]) -> str:
    """p50, the median of the turns; p95 and p99 of all of them together, where so many requests can tell; requests a second."""
    together = load.Seen(sorted(taken for turn in seen for taken in turn.seconds))
    times = [f"{median(seen, p(0.5)):.0f}"]
    times += [
        f"{1000 * together.quantile(share):.0f}" for share, least in ((0.95, 40), (0.99, 200)) if len(together.seconds) >= least
    ]
    errors = sum(s.errors for s in seen)
    return f"{' / '.join(times)} ms, {median(seen, lambda s: s.per_second):.1f} a second" + f", {errors} errors" * bool(errors)


def large() -> Iterator[Line]:
    bodies, checkpoint = photographs(LARGE, ".jpg"), at_256("ddunet")
    with ExitStack() as stack:
        servers = started(stack, list(COMMANDS), checkpoint, bodies)
        reference = np.asarray(Image.open(io.BytesIO(servers[0].first.last)).convert("RGB"))
        for server in servers[1:]:
            mask = np.asarray(Image.open(io.BytesIO(server.first.last)).convert("RGB"))
            same = float((mask == reference).all(-1).mean())
            yield f"2048x1024 JPEG, same pixels as {FASTAPI}: {server.kind}", "", f"{same:.1%}", "", ""
        wanted = {(1, FASTAPI, OURS): "7x", (1, FASTAPI, TORCH): "3x", (1, LITSERVE, OURS): "5x", (1, BENTOML, OURS): "5x"}
        for clients, seconds in ((1, 6), (4, 8), (16, 14)):
            seen = dict(zip(COMMANDS, in_turns(servers, partial(hold_on, bodies, clients, seconds), 3), strict=True))
            for other in (FASTAPI, LITSERVE, BENTOML):
                for mine in (OURS, TORCH):
                    ratio = median(seen[other], p(0.5)) / median(seen[mine], p(0.5))
                    what = f"2048x1024 JPEG, DDU-Net 16, {clients} clients, p50 / p95 / p99: {other}, then {mine}"
                    yield what, row(seen[other]), row(seen[mine]), f"{ratio:.1f}x", wanted.get((clients, other, mine), "")
        for server in servers:
            yield f"memory afterwards: {server.kind}", "", f"{server.memory / 1e6:.0f} MB", "", ""
        for rate in (2, 10, 20):
            able = servers if rate == 2 else servers[-2:]
            for server, turns in zip(able, in_turns(able, partial(at_rate, bodies, rate), 3), strict=True):
                yield f"open loop, {rate} requests a second: {server.kind}", "", row(turns), "", ""


def small() -> Iterator[Line]:
    bodies = photographs(SMALL, ".png")
    for name in ("unet", "ddunet"):
        with ExitStack() as stack:
            servers = started(stack, (FASTAPI, OURS), wide(name), bodies)
            before, after = in_turns(servers, partial(crowd, bodies, 4, 12), 3)
            ratio = median(after, lambda s: s.per_second) / median(before, lambda s: s.per_second)
            yield f"256x256 PNG, {name} 64, 4 clients: {FASTAPI}, then {OURS}", row(before), row(after), f"{ratio:.1f}x", "4.5x"


def own() -> Iterator[Line]:
    pictures = {"2048x1024 JPEG": photographs(LARGE, ".jpg")}
    pictures["480x360 JPEG"] = [load.form((ROOT / "docs" / "street.jpg").read_bytes(), "image/jpeg")]
    with ExitStack() as stack:
        for name in shipped():
            (server,) = started(stack, (OURS,), PRETRAINED / f"{name}.safetensors", pictures["480x360 JPEG"])
            for what, bodies in pictures.items():
                (seen,) = in_turns([server], partial(crowd, bodies, 1, 20), 3)
                yield f"{what}, {name} as it ships, at its own size (256x320), 1 client", "", row(seen), "", ""
                (full,) = in_turns([server], partial(crowd, bodies, 16, 160), 3)
                yield f"{what}, {name} as it ships, 16 clients", "", row(full), "", ""
                rate = 0.55 * median(full, lambda one: one.per_second)
                (calm,) = in_turns([server], partial(at_rate, bodies, rate), 5)
                yield f"{what}, {name} as it ships, {rate:.0f} requests a second", "", row(calm), "", ""


def overhead() -> Iterator[Line]:
    bodies = photographs(LARGE, ".jpg")
    with ExitStack() as stack:
        (server,) = started(stack, (OURS,), at_256("ddunet"), bodies)
        seen = load.closed(server.port, bodies, 1, requests=60)
        stages = [dict(re.findall(r"(\w+);dur=([\d.]+)", timing)) for timing in seen.timings]
        inside = [sum(float(stage[name]) for name in ("decode", "forward", "label", "encode")) for stage in stages]
        rest = statistics.median(1000 * whole - part for whole, part in zip(seen.seconds, inside, strict=True))
        yield "2048x1024 JPEG, 1 client: not decode, forward, label or encode", "", f"{rest:.1f} ms", "", "3 ms"
        many = [load.closed(server.port, bodies, 16, requests=320) for _ in range(3)]
        ratio = median(many, p(0.99)) / median(many, p(0.5))
        yield "16 clients: p99 over p50", "", row(many), f"{ratio:.2f}", "2.5"


def beside() -> Iterator[Line]:
    bodies = photographs(LARGE, ".jpg")
    data = FOLDER / "scenes"
    for index in range(60):
        if not (data / "complete").exists():
            write_scene(data, "val", index, LARGE, seed=0)
    (data / "complete").touch()
    with ExitStack() as stack:
        (server,) = started(stack, (OURS,), at_256("ddunet"), bodies, data=data)
        rate = load.closed(server.port, bodies, 4, requests=60).per_second / 4
        alone, mixed = [], []
        idle, under = [], []
        for _ in range(3):
            idle += evaluations(server)
            alone.append(load.opened(server.port, bodies, rate, 8))
            over = threading.Event()
            with ThreadPoolExecutor(1) as pool:
                running = pool.submit(evaluations, server, over)
                mixed.append(load.opened(server.port, bodies, rate, 8))
                over.set()
                under += running.result()
        before, after = (median(seen, p(0.5)) for seen in (alone, mixed))
        yield (
            f"{rate:.1f} requests a second, p50: alone, then beside an evaluation",
            f"{before:.1f} ms",
            f"{after:.1f} ms",
            f"{after / before:.2f}",
            "1.2",
        )
        speeds = [statistics.median(s) for s in (idle, under)]
        yield (
            "the evaluation: alone, then beside them",
            *(f"{s:.1f} images/s" for s in speeds),
            f"{speeds[1] / speeds[0]:.0%}",
            "20 %",
        )


def evaluations(server: Server, over: threading.Event | None = None) -> list[float]:
    """Images a second of an evaluation by the service, or of one after another until something is over, the last of
    which is left out: it has not had all its time beside the rest."""
    speeds = []
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        connection.request("POST", "/evaluate?wait=true")
        speeds.append(json.loads(connection.getresponse().read())["speed"]["images_per_s"])
        if over is None:
            return speeds
        if over.is_set():
            return speeds[:-1]


PARTS: dict[str, Callable[[], Iterator[Line]]] = {
    "large": large,
    "small": small,
    "own": own,
    "overhead": overhead,
    "beside": beside,
}
