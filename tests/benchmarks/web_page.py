"""Benchmarks of the web page in Chromium: reaction to a dropped image, and time to show a mask."""

from __future__ import annotations

import base64
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import cv2
import numpy as np

from core.checkpoints.checkpoint import PRETRAINED
from tests.benchmarks.rows import Row
from tests.benchmarks.servers.launch import OPENVINO, Server
from tests.benchmarks.serving import request_bodies
from tests.support.browser import chromium
from training.synthetic.scenes import street_scene

REPEATS = 15
# Drops an image on the page; returns the milliseconds until the frame in which the page shows the status of the image.
DROP_IMAGE = """async (content) => {
  const files = new DataTransfer();
  const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
  files.items.add(new File([bytes], "street.jpg", { type: "image/jpeg" }));
  const list = document.getElementById("thumbnails"), before = list.children.length, began = performance.now();
  document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true }));
  while (list.children.length === before || !list.lastElementChild.querySelector(".status").textContent)
    await new Promise((resolve) => requestAnimationFrame(resolve));
  await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
  return performance.now() - began;
}"""
SHOW_MASK = "performance.getEntriesByName('show-mask')"  # measured by the page itself


def web_page() -> Iterator[Row]:
    rgb, _ = street_scene(np.random.default_rng(0), 1024, 2048)
    jpeg = base64.b64encode(cv2.imencode(".jpg", rgb[..., ::-1])[1].tobytes()).decode()
    with ExitStack() as stack:
        server = Server(OPENVINO, PRETRAINED / "ddunet.safetensors", request_bodies((256, 256), ".png")[0])
        stack.callback(server.close)
        page = stack.enter_context(chromium()).new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.wait_for_selector("input[value=ddunet]:checked")
        drop_ms = []
        for number in range(1, REPEATS + 2):
            drop_ms.append(float(page.evaluate(DROP_IMAGE, jpeg)))
            page.wait_for_function(f"() => {SHOW_MASK}.length === {number}", timeout=60_000)
        show_ms = page.evaluate(f"() => {SHOW_MASK}.map((entry) => entry.duration)")
    for what, times, target in (
        ("web page: from a drop of a 2048x1024 JPEG until its status is shown", drop_ms, "100 ms"),
        ("web page: show the mask (decode, count, paint)", show_ms, "50 ms"),
    ):
        times = times[1:]  # the first drop warms up the browser
        yield Row(what, result=f"{statistics.median(times):.0f} ms (max {max(times):.0f})", target=target)


PARTS: dict[str, Callable[[], Iterator[Row]]] = {"web-page": web_page}
