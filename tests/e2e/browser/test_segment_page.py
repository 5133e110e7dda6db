"""The segment page: add images, compare masks, inspect classes, and export results."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect

from core.data.labels import CITYSCAPES
from core.images.decode import decode_image
from core.inference.segmenter import Segmenter
from tests.support.browser import canvas_pixels, open_with_images, predict_labels, show_setup, wait_for_masks
from tests.support.sample_images import encode_image, rotated_image, sample_image

Segmenters = dict[str, Segmenter]
DECODE_MASK = """async (content) => {
  const { decodeMask } = await import("/static/mask.js");
  const { width, height, labels } = await decodeMask(Uint8Array.from(atob(content), (c) => c.charCodeAt(0)).buffer);
  return { width, height, labels: [...labels] };
}"""
CREATE_ZIP = """async (names) => {
  const { createZip } = await import("/static/zip.js");
  const zip = createZip(names.map((name) => ({ name, bytes: new TextEncoder().encode(`content of ${name}`).buffer })));
  return [...new Uint8Array(await zip.arrayBuffer())];
}"""
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
    show_setup(page)
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
    show_setup(page)
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


def test_input_is_folded_away_while_there_is_a_result(page: Page, url: str, street: Path) -> None:
    page.goto(url)
    toggle = page.get_by_role("button", name="Models and examples")
    expect(toggle).to_be_hidden()
    open_with_images(page, url, street)
    expect(toggle).to_contain_text("ddunet")
    expect(page.locator("#models")).to_be_hidden()
    assert page.locator(".viewport").bounding_box()["y"] < 250
    toggle.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#models")).to_be_visible()
    page.set_input_files("#files", street)
    wait_for_masks(page, 2)
    expect(page.locator("#models")).to_be_visible()  # the user has unfolded it
    for name in ("a 'street'.png", "a 'street'.png"):
        page.get_by_role("button", name=f"remove {name}").first.click()
    expect(toggle).to_be_hidden()
    expect(page.locator("#examples")).to_be_visible()


def test_focus_stays_near_when_input_is_folded_away(page: Page, url: str) -> None:
    page.goto(url)
    page.locator("#examples button").first.focus()
    page.keyboard.press("Enter")
    wait_for_masks(page)
    expect(page.locator("#toggle-setup")).to_be_focused()


def test_focus_stays_on_file_chooser(page: Page, url: str, street: Path) -> None:
    page.goto(url)
    page.locator("#files").focus()
    page.set_input_files("#files", street)
    wait_for_masks(page)
    expect(page.locator("#files")).to_be_focused()


def test_class_label_follows_pointer_inside_image(page: Page, url: str, street: Path, segmenters: Segmenters) -> None:
    open_with_images(page, url, street)
    labels = predict_labels(segmenters["ddunet"], street)
    label, image = page.locator(".class-label"), page.locator(".viewport").bounding_box()
    expect(label).to_be_hidden()
    for y, x in ((0, 0), (0, 255), (127, 0), (127, 255), (64, 128)):
        point_at(page, labels, x, y)
        expect(label).to_have_text(CITYSCAPES.names[labels[y, x]])
        box = label.bounding_box()
        assert image["x"] <= box["x"] and box["x"] + box["width"] <= image["x"] + image["width"] + 1
        assert image["y"] <= box["y"] and box["y"] + box["height"] <= image["y"] + image["height"] + 1
    page.mouse.move(0, 0)
    expect(label).to_be_hidden()


def test_class_label_appears_at_touch(browser, url: str, street: Path, segmenters: Segmenters) -> None:
    context = browser.new_context(has_touch=True, viewport={"width": 390, "height": 844})
    page = open_with_images(context.new_page(), url, street)
    labels = predict_labels(segmenters["ddunet"], street)
    box = page.locator(".viewport").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.75)
    expect(page.locator(".class-label")).to_have_text(CITYSCAPES.names[labels[96, 64]])
    context.close()


def test_confidence_is_requested_when_chosen(page: Page, url: str, street: Path, segmenters: Segmenters) -> None:
    posts: list[str] = []
    page.on("request", lambda request: posts.append(request.url) if request.method == "POST" else None)
    open_with_images(page, url, street)
    expect(page.locator("#confidence-scale")).to_be_hidden()
    assert posts == [f"{url}segment?model=ddunet"]
    with page.expect_response(lambda response: "output=confidence" in response.url):
        page.get_by_label("Confidence").check()
    expect(page.locator(".pending")).to_be_hidden()
    content = httpx.post(f"{url}segment?model=ddunet&output=confidence", content=street.read_bytes()).content
    confidence = np.asarray(Image.open(io.BytesIO(content)))
    page.wait_for_function(
        "() => { const [r, g, b] = document.querySelector('canvas.mask').getContext('2d')"
        ".getImageData(0, 0, 1, 1).data; return r === g && g === b; }"
    )
    assert np.array_equal(canvas_pixels(page.locator("canvas.mask"))[..., :3], confidence[..., None].repeat(3, 2))
    expect(page.locator("canvas.mask")).to_have_css("opacity", "1")
    labels = predict_labels(segmenters["ddunet"], street)
    point_at(page, labels, 100, 50)
    percentage = int(100 * int(confidence[50, 100]) / 255 + 0.5)
    expect(page.locator(".class-label")).to_have_text(f"{CITYSCAPES.names[labels[50, 100]]} {percentage}%")
    page.get_by_label("Overlay", exact=True).check()
    assert np.array_equal(canvas_pixels(page.locator("canvas.mask"))[..., :3], CITYSCAPES.palette[labels])
    page.get_by_label("Confidence").check()
    assert len(posts) == 2


def test_confidence_of_next_image_is_requested_when_it_is_shown(page: Page, url: str, street: Path) -> None:
    posts: list[str] = []
    page.on("request", lambda request: posts.append(request.url) if "output=confidence" in request.url else None)
    open_with_images(page, url, street, street)
    page.get_by_label("Confidence").check()
    expect(page.locator(".pending")).to_be_hidden()
    assert len(posts) == 1
    with page.expect_response(lambda response: "output=confidence" in response.url):
        page.locator("#thumbnails button:not(.remove)").nth(1).click()
    assert len(posts) == 2


def test_failed_confidence_shows_reason_and_mask_stays(page: Page, url: str, street: Path) -> None:
    open_with_images(page, url, street)
    page.route("**/segment?*output=confidence", lambda route: route.fulfill(status=500, body='{"detail": "no confidence"}'))
    page.get_by_label("Confidence").check()
    expect(page.locator(".viewport .pending")).to_have_text("No confidence.")
    expect(page.locator("canvas.mask")).to_be_visible()
    page.get_by_label("Mask", exact=True).check()
    expect(page.locator(".viewport .pending")).to_be_hidden()


def test_filtered_png_is_decoded(page: Page, url: str) -> None:
    rng = np.random.default_rng(0)
    gradients = np.add.outer(np.arange(64) * 3, np.arange(80) * 2)
    pixels = (gradients + rng.integers(0, 1 + np.arange(64)[:, None] // 2, (64, 80))).astype(np.uint8)
    pixels[:8] = rng.integers(0, 256, (8, 80))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")  # Pillow selects a filter for each row
    page.goto(url)
    decoded = page.evaluate(DECODE_MASK, base64.b64encode(buffer.getvalue()).decode())
    assert np.array_equal(np.array(decoded["labels"], np.uint8).reshape(64, 80), pixels)


def test_zip_contains_files(page: Page, url: str) -> None:
    page.goto(url)
    names = ["straße.png", "b.jpg", "empty"]
    with zipfile.ZipFile(io.BytesIO(bytes(page.evaluate(CREATE_ZIP, names)))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == names
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.read("straße.png").decode() == "content of straße.png"


def test_download_all_saves_masks_and_overlays_of_all_images(page: Page, url: str, street: Path) -> None:
    open_with_images(page, url, street, street)
    show_setup(page)
    page.locator("input[value=unet]").check()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download all 4 results (ZIP)").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        stems = [f"a 'street'_{model}" for model in ("ddunet", "unet")]
        assert archive.namelist() == [
            f"{stem}{suffix}_{output}" for suffix in ("", "_2") for stem in stems for output in ("mask.png", "overlay.jpg")
        ]
        for model in ("ddunet", "unet"):
            for output, name in (("mask", "mask.png"), ("overlay", "overlay.jpg")):
                content = httpx.post(f"{url}segment?model={model}&output={output}", content=street.read_bytes()).content
                assert archive.read(f"a 'street'_{model}_2_{name}") == content


def test_download_all_without_overlays_reports_what_is_missing(page: Page, url: str, street: Path) -> None:
    open_with_images(page, url, street, street)
    page.route("**/segment?*output=overlay", lambda route: route.fulfill(status=500, body='{"detail": "no overlay"}'))
    with page.expect_download() as download:
        page.get_by_role("button", name="Download all 2 results (ZIP)").click()
    expect(page.get_by_role("alert")).to_have_text("The ZIP lacks 2 of 2 overlays. No overlay.")
    with zipfile.ZipFile(download.value.path()) as archive:
        assert archive.namelist() == ["a 'street'_mask.png", "a 'street'_2_mask.png"]


def test_download_all_requests_key_and_no_further_overlay(page: Page, url: str, street: Path) -> None:
    open_with_images(page, url, street, street)
    requests, body = [], json.dumps({"code": "unauthorized", "detail": "the key is missing"})

    def refuse(route: Route) -> None:
        requests.append(route.request.url)
        route.fulfill(status=401, body=body)

    page.route("**/segment?*output=overlay", refuse)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download all 2 results (ZIP)").click()
    expect(page.locator("#key-form")).to_be_visible()
    assert len(requests) == 1
    with zipfile.ZipFile(download.value.path()) as archive:
        assert archive.namelist() == ["a 'street'_mask.png", "a 'street'_2_mask.png"]


def test_download_all_counts_images_after_one_is_removed(page: Page, url: str, street: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    other.write_bytes(street.read_bytes())
    open_with_images(page, url, street, street, other)
    expect(page.locator("#download-all")).to_have_text("Download all 3 results (ZIP)")
    page.get_by_role("button", name="remove other.png").click()
    expect(page.locator("#download-all")).to_have_text("Download all 2 results (ZIP)")


def test_stored_model_is_selected_once_it_is_read(page: Page, url: str) -> None:
    def hide_model(route: Route) -> None:
        models = route.fetch().json()
        next(model for model in models["models"] if model["name"] == "unet").update(labels=None, digest=None, loaded=False)
        route.fulfill(json=models)

    page.add_init_script("""localStorage.setItem('segment-settings', '{"models": ["unet"]}')""")
    page.route("**/models", hide_model, times=1)
    page.goto(url)
    expect(page.locator("input[value=unet]")).to_be_checked()
    expect(page.locator("input[value=ddunet]")).not_to_be_checked()


def test_settings_survive_reload(page: Page, url: str, street: Path) -> None:
    page.goto(url)
    page.locator("input[value=unet]").check()
    page.locator("input[value=ddunet]").uncheck()
    page.set_input_files("#files", street)
    wait_for_masks(page)
    page.get_by_label("Mask opacity").fill("25")
    page.get_by_label("Mask", exact=True).check()
    page.reload()
    expect(page.locator("input[value=unet]")).to_be_checked()
    expect(page.locator("input[value=ddunet]")).not_to_be_checked()
    expect(page.locator("#opacity")).to_have_value("25")
    expect(page.locator("[name=view][value=mask]")).to_be_checked()
    page.set_input_files("#files", street)
    wait_for_masks(page)
    expect(page.locator("canvas.mask")).to_have_css("opacity", "1")


@pytest.mark.parametrize(
    "stored", ["{", "null", "[]", '{"models": ["gone"], "view": "no", "opacity": 1000}', '{"models": 3, "opacity": "x"}']
)
def test_invalid_stored_settings_are_ignored(page: Page, url: str, stored: str) -> None:
    page.add_init_script(f"localStorage.setItem('segment-settings', {json.dumps(stored)})")
    page.goto(url)
    expect(page.locator("#models input:checked")).to_have_count(1)
    expect(page.locator("input[value=ddunet]")).to_be_checked()
    expect(page.locator("#opacity")).to_have_value("60")
    expect(page.locator("[name=view][value=overlay]")).to_be_checked()


def test_digest_is_behind_info_button(page: Page, url: str, street: Path, segmenters: Segmenters) -> None:
    open_with_images(page, url, street)
    details = page.locator("figcaption .backend")
    expect(details).to_be_hidden()
    page.locator("figcaption summary").click()
    expect(details).to_be_visible()
    expect(details).to_contain_text(segmenters["ddunet"].backend.digest)


def test_classes_not_in_image_are_folded_away(page: Page, url: str, street: Path, segmenters: Segmenters) -> None:
    open_with_images(page, url, street)
    present = set(np.unique(predict_labels(segmenters["ddunet"], street)).tolist())
    absent = [name for index, name in enumerate(CITYSCAPES.names) if index not in present]
    summary = page.locator("#legend-absent summary")
    expect(summary).to_have_text(f"{len(absent)} classes not in the image")
    expect(page.locator("#legend-absent li").first).to_be_hidden()
    summary.click()
    expect(page.locator("#legend-absent li")).to_have_text(absent)
