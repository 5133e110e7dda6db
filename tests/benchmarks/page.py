"""The page's figures, in a browser: how soon it answers to a drop, and what showing a mask costs."""

from __future__ import annotations

import base64
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import cv2
import numpy as np

from core.checkpoints.checkpoint import PRETRAINED
from tests.benchmarks.servers.start import Server
from tests.benchmarks.serving import OURS, photographs
from tests.e2e.browser.browser import chromium
from training.synthetic.scenes import street_scene

Line = tuple[str, str, str, str, str]  # what, before, after, ratio, wanted
REPEATS = 15
# milliseconds from a drop to the frame in which the page shows how far the photograph is
DROP = """async (content) => {
  const files = new DataTransfer();
  const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
  files.items.add(new File([bytes], "street.jpg", { type: "image/jpeg" }));
  const strip = document.getElementById("strip"), before = strip.children.length, began = performance.now();
  document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true }));
  while (strip.children.length === before || !strip.lastElementChild.querySelector(".told").textContent)
    await new Promise((go) => requestAnimationFrame(go));
  await new Promise((go) => requestAnimationFrame(() => setTimeout(go)));
  return performance.now() - began;
}"""
SHOWN = "() => performance.getEntriesByName('show').map((entry) => entry.duration)"


def page() -> Iterator[Line]:
    rgb, _ = street_scene(np.random.default_rng(0), 1024, 2048)
    jpeg = cv2.imencode(".jpg", rgb[..., ::-1])[1].tobytes()
    with ExitStack() as stack:
        server = Server(OURS, PRETRAINED / "ddunet.safetensors", photographs((256, 256), ".png")[0])
        stack.callback(server.close)
        tab = stack.enter_context(chromium()).new_page(viewport={"width": 1280, "height": 900})
        tab.goto(f"http://127.0.0.1:{server.port}/")
        tab.wait_for_selector("input[value=ddunet]:checked")
        drops = []
        for number in range(REPEATS + 1):
            drops.append(float(tab.evaluate(DROP, base64.b64encode(jpeg).decode())))
            tab.wait_for_function(f"() => performance.getEntriesByName('show').length === {number + 1}", timeout=60_000)
        shown = tab.evaluate(SHOWN)
    for what, times, wanted in (
        ("the page: from a drop of a 2048x1024 JPEG to its own progress", drops, "100 ms"),
        ("the page: showing its mask (reading, counting, painting)", shown, "50 ms"),
    ):
        times = times[1:]  # the first one is a browser's that has just begun
        yield what, "", f"{statistics.median(times):.0f} ms, at most {max(times):.0f}", "", wanted


PARTS: dict[str, Callable[[], Iterator[Line]]] = {"page": page}
