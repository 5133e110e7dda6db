"""Drive the web page in headless Chromium."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from core.images.decode import decode_image
from core.inference.segmenter import Segmenter
from tests.support.prerequisites import skip_or_fail
from tests.support.wait import wait_until

EXECUTABLES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",  # Chromium does not start as root with its sandbox
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
CONTRAST_RATIO = """(element) => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const ancestors = [];
  for (let node = element; node; node = node.parentElement) ancestors.push(getComputedStyle(node));
  const opacity = ancestors.reduce((product, style) => product * style.opacity, 1);
  const background = ancestors.map((style) => rgba(style.backgroundColor)).find((color) => color[3] === 255);
  const text = rgba(ancestors[0].color).map((value, n) => opacity * value + (1 - opacity) * background[n]);
  const luminance = (color) => color.slice(0, 3).map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, n) => sum + value * [0.2126, 0.7152, 0.0722][n], 0);
  const [low, high] = [luminance(text), luminance(background)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Yield a browser that reaches only this computer and has a simulated camera.

    Without Chromium the test is skipped, or fails if `E2E=required` is set.
    """
    path = next((path for name in EXECUTABLES if (path := shutil.which(name))), None)
    if path is None:
        skip_or_fail(f"no browser found ({', '.join(EXECUTABLES)}); install one with: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def open_with_images(page: Page, url: str, *files: Path) -> Page:
    """Open the page, add the images, and wait until all of them are segmented by the default model."""
    page.goto(url)
    expect(page.locator("input[value=ddunet]")).to_be_checked()
    page.set_input_files("#files", files)
    wait_for_masks(page, len(files))
    return page


def wait_for_masks(page: Page, images: int = 1) -> None:
    """Wait until so many images are segmented and a mask is shown."""
    expect(page.locator("#thumbnails .status").filter(has_text="done")).to_have_count(images)
    expect(page.locator("canvas.mask").first).to_be_visible()


def show_setup(page: Page) -> None:
    """Unfold the choice of models and options, which is folded away while there is a result."""
    toggle = page.locator("#toggle-setup")
    if toggle.get_attribute("aria-expanded") == "false":
        toggle.click()


def canvas_pixels(canvas: Locator) -> np.ndarray:
    """Return the contents of a canvas, RGBA uint8 (H, W, 4)."""
    data = canvas.evaluate("canvas => canvas.toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGBA"))


def predict_labels(segmenter: Segmenter, path: Path) -> np.ndarray:
    """Return the label map of an image file, uint8 (H, W)."""
    return segmenter.predict_batch([decode_image(path.read_bytes())])[0]


def run_evaluation(page: Page, url: str, model: str) -> Locator:
    """Start an evaluation on the evaluation page, wait until it is done, and return its row of the table."""
    page.goto(f"{url}#evaluation")
    expect(page.locator("#evaluation-model option")).to_have_count(3)
    expect(page.locator("#evaluations")).not_to_be_empty()  # until the list of evaluations has arrived
    before = page.locator("#evaluations tbody tr").count()
    page.locator("#evaluation-model").select_option(model)
    page.get_by_role("button", name="Start evaluation").click()
    wait_until(lambda: page.locator("#evaluations tbody tr").count() > before)
    row = page.locator("#evaluations tbody tr").first
    expect(row).to_contain_text("done")
    return row


def contrast_ratio(element: Locator) -> float:
    """Return the contrast of an element's text with its background after WCAG 2, from 1 to 21."""
    return float(element.evaluate(CONTRAST_RATIO))
