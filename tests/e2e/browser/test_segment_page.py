"""The segment page: add images, compare masks, inspect classes, and export results."""

from __future__ import annotations

import base64
import io
import json
import subprocess
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from core.data.labels import CITYSCAPES
from core.images.decode import decode_image
from core.inference.segmenter import Segmenter
from tests.support.browser import canvas_pixels, open_with_images, predict_labels, wait_for_masks
from tests.support.sample_images import encode_image, rotated_image, sample_image

Segmenters = dict[str, Segmenter]
DROP = """([name, type, content]) => {
  const files = new DataTransfer();
  files.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name, { type }));
  const event = new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true });
  document.getElementById("drop").dispatchEvent(event);
}"""
PASTE = """([name, type, content]) => {
  const files = new DataTransfer();
  files.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name, { type }));
  dispatchEvent(new ClipboardEvent("paste", { clipboardData: files }));
}"""


def start_slow_upload(page: Page, url: str, path: Path, bytes_per_s: int) -> None:
    """Open the page and add an image of 1.4 MB, which is uploaded at the given rate."""
    path.write_bytes(encode_image(image=np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)))
    page.goto(url)
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    conditions = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": bytes_per_s}
    network.send("Network.emulateNetworkConditions", conditions)
    page.set_input_files("#files", path)
    expect(page.locator("#thumbnails .status")).to_contain_text("uploading: ")


def point_at(page: Page, labels: np.ndarray, x: int, y: int, viewer: int = 0) -> None:
    """Move the pointer to a pixel of a mask."""
    viewport = page.locator(".viewport").nth(viewer)
    box = viewport.bounding_box()
    position = {"x": (x + 0.5) / labels.shape[1] * box["width"], "y": (y + 0.5) / labels.shape[0] * box["height"]}
    viewport.hover(position=position, force=True)


def test_first_visit_offers_images_examples_and_models(page: Page, url: str) -> None:
    page.goto(url)
    expect(page).to_have_title("Segment – Street-scene segmentation")
    expect(page.get_by_role("checkbox", name="unet")).to_have_count(3)
    expect(page.locator(".model").first).to_contain_text("torch")
    expect(page.locator("#models .message")).to_be_hidden()
    expect(page.locator("#result")).to_be_hidden()
    page.locator("#examples button").first.click()
    wait_for_masks(page)
    expect(page.locator("#thumbnails b")).to_have_text("junction.jpg")


@pytest.mark.parametrize("script", [DROP, PASTE], ids=["drop", "paste"])
def test_dropped_or_pasted_image_is_segmented(page: Page, url: str, street: Path, segmenters: Segmenters, script: str) -> None:
    page.goto(url)
    page.evaluate(script, ["street.png", "image/png", base64.b64encode(street.read_bytes()).decode()])
    wait_for_masks(page)
    mask = canvas_pixels(page.locator("canvas.mask"))
    labels = predict_labels(segmenters["ddunet"], street)
    assert np.array_equal(mask[..., :3], CITYSCAPES.palette[labels])
    assert (mask[..., 3] == 255).all()
    caption = page.locator("figcaption")
    expect(caption).to_contain_text("ms server, ")
    expect(caption).to_contain_text("ms total")
    expect(caption).to_contain_text(segmenters["ddunet"].backend.digest[:12])


def test_pointer_shows_class_of_pixel(page: Page, url: str, street: Path, segmenters: Segmenters) -> None:
    open_with_images(page, url, street)
    labels = predict_labels(segmenters["ddunet"], street)
    info = page.locator(".pixel-info")
    for y, x in ((0, 0), (127, 255), *np.random.default_rng(0).integers(0, (128, 256), (8, 2)).tolist()):
        point_at(page, labels, x, y)
        expect(info).to_contain_text(f"x {x}, y {y}")
        expect(info).to_contain_text(CITYSCAPES.names[labels[y, x]])
    page.mouse.move(0, 0)
    expect(info).to_have_text("Point at the mask to see the class of a pixel.")


def test_legend_shows_percentages_and_hides_classes(page: Page, url: str, street: Path, segmenters: Segmenters) -> None:
    open_with_images(page, url, street)
    labels = predict_labels(segmenters["ddunet"], street)
    counts = np.bincount(labels.ravel(), minlength=19)
    by_size = [index for index in np.argsort(-counts, kind="stable") if counts[index]]
    rows = page.locator("#legend li")
    expect(rows).to_have_count(len(by_size))
    largest = CITYSCAPES.names[by_size[0]]
    expect(rows.first).to_contain_text(largest)
    expect(rows.first).to_contain_text(f"{100 * counts[by_size[0]] / labels.size:.1f}%")

    rows.first.get_by_role("button", name=largest).first.click()
    transparent = canvas_pixels(page.locator("canvas.mask"))[..., 3] == 0
    assert np.array_equal(transparent, labels == by_size[0])
    page.get_by_role("button", name=f"only {largest}", exact=True).click()
    opaque = canvas_pixels(page.locator("canvas.mask"))[..., 3] == 255
    assert np.array_equal(opaque, labels == by_size[0])
    page.get_by_role("button", name="Show all").click()
    assert (canvas_pixels(page.locator("canvas.mask"))[..., 3] == 255).all()


def test_opacity_and_divider(page: Page, url: str, street: Path) -> None:
    open_with_images(page, url, street)
    mask = page.locator("canvas.mask")
    page.get_by_label("Mask opacity").fill("25")
    expect(mask).to_have_css("opacity", "0.25")
    page.get_by_label("Compare mask and image").fill("50")
    expect(mask).to_have_css("clip-path", "inset(0px 50% 0px 0px)")
    viewport, divider = page.locator(".viewport").bounding_box(), page.locator(".divider").bounding_box()
    page.mouse.move(divider["x"] + 1, divider["y"] + 20)
    page.mouse.down()
    page.mouse.move(viewport["x"] + viewport["width"] / 4, divider["y"] + 20)
    page.mouse.up()
    expect(page.locator("#divider")).to_have_value("25")


def test_three_models_side_by_side_with_differences(page: Page, url: str, street: Path, segmenters: Segmenters) -> None:
    open_with_images(page, url, street)
    for name in ("r2unet", "unet"):
        page.locator(f"input[value={name}]").check()
    expect(page.locator("figure canvas.mask:visible")).to_have_count(3)
    expect(page.locator("#highlight-label")).to_be_visible()
    masks = [predict_labels(segmenters[name], street) for name in ("ddunet", "r2unet", "unet")]
    different = (masks[0] != masks[1]) | (masks[0] != masks[2])
    expect(page.locator("#difference-fraction")).to_have_text(f"({100 * different.mean():.1f}% of pixels)")
    for n, labels in enumerate(masks):
        assert np.array_equal(canvas_pixels(page.locator("canvas.mask").nth(n))[..., :3], CITYSCAPES.palette[labels])
        stripes = canvas_pixels(page.locator("canvas.differences").nth(n))[..., 3] > 0
        assert stripes.any() and not (stripes & ~different).any()
    y, x = np.argwhere(different)[0].tolist()
    point_at(page, masks[0], x, y, viewer=1)
    for n, labels in enumerate(masks):
        expect(page.locator(".pixel-info").nth(n)).to_contain_text(CITYSCAPES.names[labels[y, x]])
    page.get_by_label("Highlight differences").uncheck()
    expect(page.locator("canvas.differences:visible")).to_have_count(0)


def test_invalid_image_shows_reason_and_next_image_works(page: Page, url: str, street: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("not an image")
    problem = httpx.post(f"{url}segment", content=notes.read_bytes()).json()
    assert problem["code"] == "unsupported_image_format"
    reason = problem["detail"][1:].rstrip(".")
    page.goto(url)
    page.set_input_files("#files", notes)
    expect(page.locator("#thumbnails .status")).to_contain_text(reason)
    expect(page.locator(".viewport .pending")).to_contain_text(reason)
    page.set_input_files("#files", street)
    wait_for_masks(page)


def test_select_and_remove_images(page: Page, url: str, street: Path, tmp_path: Path, segmenters: Segmenters) -> None:
    rotated = tmp_path / "rotated.jpg"
    rotated.write_bytes(rotated_image(6, quality=95))
    open_with_images(page, url, street, rotated)
    page.locator("#thumbnails button").filter(has_text="rotated.jpg").click()
    expect(page.locator("#curl-command")).to_contain_text("rotated.jpg")
    page.wait_for_function("() => document.querySelector('canvas.mask').height === 60")  # upright, after its EXIF orientation
    mask = canvas_pixels(page.locator("canvas.mask"))
    assert np.array_equal(mask[..., :3], CITYSCAPES.palette[predict_labels(segmenters["ddunet"], rotated)])
    shown = page.locator(".viewport img").bounding_box()
    assert shown["height"] / shown["width"] == pytest.approx(60 / 40, rel=0.02)
    thumbnail = page.locator("#thumbnails canvas").nth(1)
    expect(thumbnail).to_have_attribute("height", "144")
    expect(thumbnail).to_have_attribute("width", "96")
    expected_color = decode_image(rotated.read_bytes()).mean((0, 1))
    assert abs(canvas_pixels(thumbnail)[..., :3].mean((0, 1)) - expected_color).max() < 3
    page.get_by_role("button", name="remove rotated.jpg").click()
    expect(page.locator("#curl-command")).to_contain_text("street")
    page.get_by_role("button", name="remove").click()
    expect(page.locator("#result")).to_be_hidden()


def test_next_image_clears_pixel_and_keeps_hidden_classes(
    page: Page, url: str, street: Path, tmp_path: Path, segmenters: Segmenters
) -> None:
    other = tmp_path / "other.png"
    other.write_bytes(encode_image(image=sample_image(128, 256, seed=9)[::-1]))
    open_with_images(page, url, street, other)
    labels = predict_labels(segmenters["ddunet"], street)
    point_at(page, labels, 5, 5)
    expect(page.locator(".pixel-info")).to_contain_text("x 5")
    only = page.locator("#legend .only").first
    name = only.get_attribute("aria-label").removeprefix("only ")
    only.click()
    page.locator("#thumbnails button").filter(has_text="other.png").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#curl-command")).to_contain_text("other.png")
    expect(page.locator("canvas.mask")).to_be_visible()
    expect(page.locator(".pixel-info")).not_to_contain_text("x 5")
    opaque = canvas_pixels(page.locator("canvas.mask"))[..., 3] > 0
    assert np.array_equal(opaque, predict_labels(segmenters["ddunet"], other) == CITYSCAPES.names.index(name))


def test_removing_an_image_cancels_its_upload(page: Page, url: str, tmp_path: Path) -> None:
    start_slow_upload(page, url, tmp_path / "large.png", 100_000)
    with page.expect_event("requestfailed"):
        page.get_by_role("button", name="remove large.png").click()
    expect(page.locator("#notice")).to_be_hidden()


def test_full_resolution_and_flip_augmentation(page: Page, url: str, street: Path) -> None:
    open_with_images(page, url, street)
    with page.expect_response(lambda response: "resolution=native" in response.url and "flip=true" in response.url) as response:
        page.get_by_label("Flip augmentation (2x time)").check()
        page.get_by_label("Full resolution (tiled)").check()
    wait_for_masks(page)
    content = httpx.post(response.value.url, content=street.read_bytes()).content
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))
    assert np.array_equal(canvas_pixels(page.locator("canvas.mask")), expected)


def test_download_mask_overlay_and_json(page: Page, url: str, street: Path) -> None:
    open_with_images(page, url, street)
    for output, name in (
        ("mask", "a 'street'_mask.png"),
        ("overlay", "a 'street'_overlay.jpg"),
        ("json", "a 'street'.json"),
    ):
        with page.expect_download() as download:
            page.get_by_role("button", name=f"Download {output}", exact=False).click()
        saved = Path(download.value.path()).read_bytes()
        # Chromium replaces some characters of file names.
        suffix = name.rpartition("street")[2].replace("_", "'")
        assert download.value.suggested_filename.replace("_", "'").endswith(suffix)
        assert saved == httpx.post(f"{url}segment?model=ddunet&output={output}", content=street.read_bytes()).content
    assert json.loads(saved)["size"] == [128, 256]


def test_curl_command_produces_same_mask(page: Page, url: str, street: Path, tmp_path: Path) -> None:
    open_with_images(page, url, street)
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("#copy-command")).to_have_text("Copied")
    command = page.evaluate("navigator.clipboard.readText()")
    assert command == page.locator("#curl-command").inner_text()
    (tmp_path / street.name).write_bytes(street.read_bytes())
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    expected = np.asarray(Image.open(tmp_path / "mask.png").convert("RGBA"))
    assert np.array_equal(canvas_pixels(page.locator("canvas.mask")), expected)


def test_upload_progress_is_shown(page: Page, url: str, tmp_path: Path) -> None:
    start_slow_upload(page, url, tmp_path / "large.png", 500_000)
    expect(page.get_by_role("progressbar", name="progress of large.png by ddunet")).to_be_visible()
    page.wait_for_function(
        "() => { const { value } = document.querySelector('#thumbnails progress'); return value > 0 && value < 1; }"
    )
    wait_for_masks(page)
    expect(page.locator("#thumbnails progress")).to_be_hidden()


def test_large_mask_is_painted_smaller_and_keeps_its_labels(
    page: Page, url: str, tmp_path: Path, segmenters: Segmenters
) -> None:
    path = tmp_path / "wide.png"
    path.write_bytes(encode_image(image=sample_image(2000, 3000)))
    open_with_images(page, url, path)
    labels = predict_labels(segmenters["ddunet"], path)
    pixels = canvas_pixels(page.locator("canvas.mask"))
    assert np.array_equal(pixels[..., :3], CITYSCAPES.palette[labels[::2, ::2]])
    page.locator(".viewport").focus()
    page.keyboard.press("ArrowRight")
    x = 1500 + 75
    expect(page.locator(".pixel-info")).to_contain_text(f"x {x}, y 1000")
    expect(page.locator(".pixel-info")).to_contain_text(CITYSCAPES.names[labels[1000, x]])
