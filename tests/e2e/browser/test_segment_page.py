"""The photographs' page in a browser: from a first visit to masks that are compared and taken away."""

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
from playwright.sync_api import Locator, Page, expect

from core.data.labels import CITYSCAPES
from core.images.decode import decode_photo
from core.inference.segmenter import Segmenter
from tests.support.sample_images import encoded, photo, turned

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


def given(page: Page, url: str, *files: Path) -> Page:
    """The page with these photographs, all segmented."""
    page.goto(url)
    expect(page.locator("input[value=ddunet]")).to_be_checked()
    page.set_input_files("#files", files)
    done(page, len(files))
    return page


def done(page: Page, count: int = 1) -> None:
    expect(page.locator(".strip .told").filter(has_text="done")).to_have_count(count)
    expect(page.locator("canvas.mask").first).to_be_visible()


def painted(canvas: Locator) -> np.ndarray:
    """(H, W, 4) of a canvas."""
    data = canvas.evaluate("canvas => canvas.toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGBA"))


def labels_of(segmenter: Segmenter, path: Path) -> np.ndarray:
    return segmenter.many([decode_photo(path.read_bytes())])[0]


def being_sent(page: Page, url: str, path: Path, bytes_per_s: int) -> None:
    """The page with a photograph of some megabytes on its way, at so many bytes a second."""
    path.write_bytes(encoded(picture=np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)))
    page.goto(url)
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    conditions = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": bytes_per_s}
    network.send("Network.emulateNetworkConditions", conditions)
    page.set_input_files("#files", path)
    expect(page.locator(".strip .told")).to_contain_text("sending: ")


def at(page: Page, labels: np.ndarray, x: int, y: int, view: int = 0) -> None:
    """Point at a pixel."""
    stage = page.locator(".stage").nth(view)
    box = stage.bounding_box()
    place = {"x": (x + 0.5) / labels.shape[1] * box["width"], "y": (y + 0.5) / labels.shape[0] * box["height"]}
    stage.hover(position=place, force=True)


def test_a_first_visit_offers_photographs_examples_and_models(page: Page, url: str) -> None:
    page.goto(url)
    expect(page).to_have_title("Street-scene segmentation")
    expect(page.get_by_role("checkbox", name="unet")).to_have_count(3)
    expect(page.locator(".model").first).to_contain_text("torch")
    expect(page.locator("#result")).to_be_hidden()
    page.locator("#examples button").first.click()
    done(page)
    expect(page.locator(".strip b")).to_have_text("junction.jpg")


@pytest.mark.parametrize("how", [DROP, PASTE], ids=["dropped", "pasted"])
def test_a_dropped_or_pasted_photograph_gets_its_mask(
    page: Page, url: str, street: Path, segmenters: Segmenters, how: str
) -> None:
    page.goto(url)
    page.evaluate(how, ["street.png", "image/png", base64.b64encode(street.read_bytes()).decode()])
    done(page)
    mask = painted(page.locator("canvas.mask"))
    labels = labels_of(segmenters["ddunet"], street)
    assert np.array_equal(mask[..., :3], CITYSCAPES.palette[labels]) and (mask[..., 3] == 255).all()
    caption = page.locator("figcaption")
    expect(caption).to_contain_text("ms with the way")
    expect(caption).to_contain_text(segmenters["ddunet"].backend.digest[:12])


def test_pointing_at_a_pixel_names_its_class(page: Page, url: str, street: Path, segmenters: Segmenters) -> None:
    given(page, url, street)
    labels = labels_of(segmenters["ddunet"], street)
    for y, x in ((0, 0), (127, 255), *np.random.default_rng(0).integers(0, (128, 256), (8, 2)).tolist()):
        at(page, labels, x, y)
        told = page.locator(".pointed")
        expect(told).to_contain_text(f"x {x}, y {y}")
        expect(told).to_contain_text(CITYSCAPES.names[labels[y, x]])
    page.mouse.move(0, 0)
    expect(page.locator(".pointed")).to_have_text("")


def test_the_legend_tells_the_shares_and_hides_classes(page: Page, url: str, street: Path, segmenters: Segmenters) -> None:
    given(page, url, street)
    labels = labels_of(segmenters["ddunet"], street)
    pixels = np.bincount(labels.ravel(), minlength=19)
    order = [k for k in np.argsort(-pixels, kind="stable") if pixels[k]]
    rows = page.locator("#legend li")
    expect(rows).to_have_count(len(order))
    largest = CITYSCAPES.names[order[0]]
    expect(rows.first).to_contain_text(f"{largest}")
    expect(rows.first).to_contain_text(f"{100 * pixels[order[0]] / labels.size:.1f}%")

    rows.first.get_by_role("button", name=largest).first.click()
    hidden = painted(page.locator("canvas.mask"))[..., 3] == 0
    assert np.array_equal(hidden, labels == order[0])
    page.get_by_role("button", name=f"only {largest}", exact=True).click()
    shown = painted(page.locator("canvas.mask"))[..., 3] == 255
    assert np.array_equal(shown, labels == order[0])
    page.get_by_role("button", name="Show all").click()
    assert (painted(page.locator("canvas.mask"))[..., 3] == 255).all()


def test_opacity_and_the_edge_between_mask_and_photograph(page: Page, url: str, street: Path) -> None:
    given(page, url, street)
    mask = page.locator("canvas.mask")
    page.locator("#opacity").fill("25")
    expect(mask).to_have_css("opacity", "0.25")
    page.locator("#divider").fill("50")
    expect(mask).to_have_css("clip-path", "inset(0px 50% 0px 0px)")
    stage, edge = page.locator(".stage").bounding_box(), page.locator(".edge").bounding_box()
    page.mouse.move(edge["x"] + 1, edge["y"] + 20)
    page.mouse.down()
    page.mouse.move(stage["x"] + stage["width"] / 4, edge["y"] + 20)
    page.mouse.up()
    expect(page.locator("#divider")).to_have_value("25")


def test_three_models_side_by_side_and_where_they_differ(page: Page, url: str, street: Path, segmenters: Segmenters) -> None:
    given(page, url, street)
    for name in ("r2unet", "unet"):
        page.get_by_role("checkbox", name=name).locator(f"xpath=self::*[@value='{name}']").check()
    expect(page.locator("figure canvas.mask:visible")).to_have_count(3)
    expect(page.locator("#differ-label")).to_be_visible()
    each = [labels_of(segmenters[name], street) for name in ("ddunet", "r2unet", "unet")]
    differs = (each[0] != each[1]) | (each[0] != each[2])
    expect(page.locator("#differ-share")).to_have_text(f"({100 * differs.mean():.1f}% of the pixels)")
    for n, labels in enumerate(each):
        assert np.array_equal(painted(page.locator("canvas.mask").nth(n))[..., :3], CITYSCAPES.palette[labels])
        stripes = painted(page.locator("canvas.differ").nth(n))[..., 3] > 0
        assert stripes.any() and not (stripes & ~differs).any()
    y, x = np.argwhere(differs)[0].tolist()
    at(page, each[0], x, y, view=1)
    for n, labels in enumerate(each):
        expect(page.locator(".pointed").nth(n)).to_contain_text(CITYSCAPES.names[labels[y, x]])
    page.locator("#differ").uncheck()
    expect(page.locator("canvas.differ:visible")).to_have_count(0)


def test_one_model_is_always_chosen(page: Page, url: str) -> None:
    page.goto(url)
    box = page.locator("input[value=ddunet]")
    box.click()  # the only one that is chosen
    expect(box).to_be_checked()


def test_what_is_no_picture_is_told_in_a_sentence_and_the_next_one_works(
    page: Page, url: str, street: Path, tmp_path: Path
) -> None:
    page.goto(url)
    notes = tmp_path / "notes.txt"
    notes.write_text("no picture")
    page.set_input_files("#files", notes)
    sentence = "This is not a picture; expected a JPEG, PNG or WebP picture."
    expect(page.locator(".strip .told")).to_have_text(sentence)
    expect(page.locator(".stage .wait")).to_contain_text(sentence)
    page.set_input_files("#files", street)
    done(page)


def test_several_photographs_one_shown_after_another_and_removed(
    page: Page, url: str, street: Path, tmp_path: Path, segmenters: Segmenters
) -> None:
    other = tmp_path / "turned.jpg"
    other.write_bytes(turned(6, quality=95))
    given(page, url, street, other)
    page.locator(".strip button").filter(has_text="turned.jpg").click()
    expect(page.locator("#curl")).to_contain_text("turned.jpg")
    page.wait_for_function("() => document.querySelector('canvas.mask').height === 60")  # upright
    mask = painted(page.locator("canvas.mask"))
    assert np.array_equal(mask[..., :3], CITYSCAPES.palette[labels_of(segmenters["ddunet"], other)])
    shown = page.locator(".stage img").bounding_box()
    assert shown["height"] / shown["width"] == pytest.approx(60 / 40, rel=0.02)
    small = page.locator(".strip canvas").nth(1)
    expect(small).to_have_attribute("height", "144")
    expect(small).to_have_attribute("width", "96")
    assert abs(painted(small)[..., :3].mean((0, 1)) - decode_photo(other.read_bytes()).mean((0, 1))).max() < 3
    page.get_by_role("button", name="remove turned.jpg").click()
    expect(page.locator("#curl")).to_contain_text("street")
    page.get_by_role("button", name="remove").click()
    expect(page.locator("#result")).to_be_hidden()


def test_what_was_pointed_at_and_shown_alone_does_not_stay_with_the_next_photograph(
    page: Page, url: str, street: Path, tmp_path: Path, segmenters: Segmenters
) -> None:
    other = tmp_path / "other.png"
    other.write_bytes(encoded(picture=photo(128, 256, seed=9)[::-1]))
    given(page, url, street, other)
    labels = labels_of(segmenters["ddunet"], street)
    at(page, labels, 5, 5)
    expect(page.locator(".pointed")).to_contain_text("x 5")
    only = page.locator("#legend .only").first
    name = only.get_attribute("aria-label").removeprefix("only ")
    only.click()
    page.locator(".strip button").filter(has_text="other.png").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#curl")).to_contain_text("other.png")
    expect(page.locator(".pointed")).to_have_text("")
    expect(page.locator("canvas.mask")).to_be_visible()
    shown = painted(page.locator("canvas.mask"))[..., 3] > 0
    assert np.array_equal(shown, labels_of(segmenters["ddunet"], other) == CITYSCAPES.names.index(name))


def test_a_request_that_nobody_wants_any_more_is_ended(page: Page, url: str, tmp_path: Path) -> None:
    being_sent(page, url, tmp_path / "large.png", 100_000)
    with page.expect_event("requestfailed"):
        page.get_by_role("button", name="remove large.png").click()
    expect(page.locator("#notice")).to_be_hidden()


def test_native_resolution_and_mirror_image_are_asked_for(page: Page, url: str, street: Path) -> None:
    given(page, url, street)
    with page.expect_response(lambda reply: "resolution=native" in reply.url and "flip=true" in reply.url) as told:
        page.locator("#flip").check()
        page.locator("#native").check()
    done(page)
    content = httpx.post(told.value.url, content=street.read_bytes()).content
    assert np.array_equal(painted(page.locator("canvas.mask")), np.asarray(Image.open(io.BytesIO(content)).convert("RGBA")))


def test_mask_overlay_and_json_can_be_taken_away(page: Page, url: str, street: Path) -> None:
    given(page, url, street)
    for output, name in (("mask", "a 'street'_mask.png"), ("overlay", "a 'street'_overlay.jpg"), ("json", "a 'street'.json")):
        with page.expect_download() as taken:
            page.get_by_role("button", name=f"Download {output}", exact=False).click()
        saved = Path(taken.value.path()).read_bytes()
        # Chromium writes some characters of names otherwise
        assert taken.value.suggested_filename.replace("_", "'").endswith(name.rpartition("street")[2].replace("_", "'"))
        assert saved == httpx.post(f"{url}segment?model=ddunet&output={output}", content=street.read_bytes()).content
    assert json.loads(saved)["size"] == [128, 256]


def test_the_line_for_a_terminal_makes_the_same_mask(page: Page, url: str, street: Path, tmp_path: Path) -> None:
    given(page, url, street)
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("#copy")).to_have_text("Copied")
    line = page.evaluate("navigator.clipboard.readText()")
    assert line == page.locator("#curl").inner_text()
    (tmp_path / street.name).write_bytes(street.read_bytes())
    subprocess.run(line, shell=True, cwd=tmp_path, check=True)
    made = np.asarray(Image.open(tmp_path / "mask.png").convert("RGBA"))
    assert np.array_equal(painted(page.locator("canvas.mask")), made)


def test_how_much_has_been_sent_is_shown(page: Page, url: str, tmp_path: Path) -> None:
    being_sent(page, url, tmp_path / "large.png", 500_000)
    expect(page.get_by_role("progressbar", name="progress of large.png by ddunet")).to_be_visible()
    page.wait_for_function("() => { const p = document.querySelector('.strip progress'); return p.value > 0 && p.value < 1; }")
    done(page)
    expect(page.locator(".strip progress")).to_be_hidden()


def test_a_mask_larger_than_a_canvas_should_be_is_thinned_out_and_still_pointed_at(
    page: Page, url: str, tmp_path: Path, segmenters: Segmenters
) -> None:
    path = tmp_path / "wide.png"
    path.write_bytes(encoded(picture=photo(2000, 3000)))
    given(page, url, path)
    labels = labels_of(segmenters["ddunet"], path)
    assert np.array_equal(painted(page.locator("canvas.mask"))[..., :3], CITYSCAPES.palette[labels[::2, ::2]])
    stage = page.locator(".stage")
    stage.focus()
    page.keyboard.press("ArrowRight")
    x = 1500 + 75
    expect(page.locator(".pointed")).to_contain_text(f"x {x}, y 1000")
    expect(page.locator(".pointed")).to_contain_text(CITYSCAPES.names[labels[1000, x]])
