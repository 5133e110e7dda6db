"""The evaluation page: start, follow and cancel evaluations, and read their reports."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page, Route, expect

from core.data.datasets import open_dataset
from core.data.labels import CITYSCAPES
from service.app import create_app
from service.settings import load_settings
from tests.support.browser import run_evaluation
from tests.support.fake_backends import block_workers
from tests.support.live_server import live_server
from tests.support.wait import wait_until


def fetch_report(url: str, row: Locator) -> dict:
    return httpx.get(f"{url}evaluate/{row.get_attribute('id').removeprefix('evaluation-')}").json()["report"]


def present_classes(report: dict) -> set[int]:
    """Return the indices of the classes that occur in labels or predictions."""
    return {index for index, scores in enumerate(report["classes"]) if scores["iou"] is not None}


def format_signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def edit_reports(page: Page, edit: Callable[[dict], None]) -> None:
    """Let the page receive every report as `edit` changes it."""

    def fulfill(route: Route) -> None:
        response = route.fetch()
        evaluation = response.json() if response.headers["content-type"] == "application/json" else {}
        if not evaluation.get("report"):
            route.fulfill(response=response)
            return
        edit(evaluation["report"])
        route.fulfill(response=response, json=evaluation)

    page.route("**/evaluate/*", fulfill)


def shown_pixels(image: Locator) -> np.ndarray | None:
    """Return the pixels of an `img` element, (H, W, 3) uint8 RGB, or None before it is loaded."""
    data = image.evaluate("""(image) => {
      if (!image.naturalWidth) return null;
      const size = { width: image.naturalWidth, height: image.naturalHeight };
      const canvas = Object.assign(document.createElement("canvas"), size);
      canvas.getContext("2d").drawImage(image, 0, 0);
      return canvas.toDataURL("image/png");
    }""")
    return data and np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGB"))


def test_report_shows_scores_of_evaluation(page: Page, url: str) -> None:
    row = run_evaluation(page, url, "unet")
    report, shown = fetch_report(url, row), page.locator(".report").last
    expect(shown.locator("h2")).to_have_text(f"unet on {report['data']['name']}, split val")
    for n, key in enumerate(("miou_present", "miou", "pixel_accuracy")):
        expect(shown.locator(".headlines tbody tr").nth(n)).to_contain_text(f"{report['scores'][key]:.3f}")
    low, high = report["intervals"]["pixel_accuracy"]
    expect(shown.locator(".headlines tbody tr").nth(2)).to_contain_text(f"{low:.3f} to {high:.3f}")
    present = sorted(present_classes(report))
    expect(shown.locator(".bars dt")).to_have_text([CITYSCAPES.names[index] for index in present])
    expect(shown.locator(".bars dd:not(.bar)")).to_have_text([f"{report['classes'][index]['iou']:.3f}" for index in present])
    color = f"rgb({', '.join(map(str, CITYSCAPES.colors[present[0]]))})"
    expect(shown.locator(".bars .bar i").first).to_have_css("background-color", color)


def test_classes_without_pixel_are_folded_away(page: Page, url: str) -> None:
    edit_reports(page, lambda report: report["classes"][18].update(iou=None, label_pixels=0))
    row = run_evaluation(page, url, "unet")
    expect(page.locator(".report")).to_be_visible()
    absent = 19 - len(present_classes(fetch_report(url, row)) - {18})
    details = page.locator(".report details").filter(has_text="without a pixel")
    expect(details.locator("summary")).to_have_text(f"{absent} class{'es' * (absent > 1)} without a pixel")
    expect(details).not_to_have_attribute("open", "")
    expect(details).to_contain_text("bicycle")
    expect(page.locator(".report .bars dt").filter(has_text="bicycle")).to_have_count(0)
    expect(page.locator(".report .confusion tbody tr")).to_have_count(19 - absent)


def test_digest_is_shown_on_request(page: Page, url: str) -> None:
    row = run_evaluation(page, url, "unet")
    digest = fetch_report(url, row)["checkpoint"]["digest"]
    for details in (row.locator("details"), page.locator(".report details").filter(has_text="digest")):
        expect(details.get_by_text(digest)).to_be_hidden()
        details.locator("summary").click()
        expect(details.get_by_text(digest)).to_be_visible()


def test_examples_show_image_label_and_mask(page: Page, url: str, scenes: Path, segmenters) -> None:
    row = run_evaluation(page, url, "unet")
    dataset, examples = open_dataset(scenes, "val"), fetch_report(url, row)["examples"]
    figures = page.locator(".report-examples figure")
    expect(figures).to_have_count(5)
    wait_until(lambda: all(shown_pixels(image) is not None for image in figures.locator("img").all()))
    for n, example in enumerate(examples["worst"] + examples["best"]):
        expect(figures.nth(n).locator("figcaption")).to_have_text(f"{example['name']}mIoU {example['miou_present']:.3f}")
        rgb, labels = dataset[example["index"]]
        image, label, mask = (shown_pixels(part) for part in figures.nth(n).locator("img").all())
        assert (image == rgb).all() and (label == CITYSCAPES.palette[labels]).all()
        assert (mask == CITYSCAPES.palette[segmenters["unet"].predict_batch([rgb])[0]]).all()


def test_examples_wait_for_busy_service(page: Page, url: str) -> None:
    body = json.dumps({"code": "overloaded", "detail": "the service is busy"})
    page.route("**/segment?*", lambda route: route.fulfill(status=503, body=body, headers={"Retry-After": "1"}), times=1)
    run_evaluation(page, url, "unet")
    images = page.locator(".report-examples img")
    expect(images).to_have_count(15)
    wait_until(lambda: all(shown_pixels(image) is not None for image in images.all()))
    expect(page.locator(".report-examples .error")).to_be_empty()


def test_masks_of_replaced_model_are_announced(page: Page, url: str) -> None:
    edit_reports(page, lambda report: report["checkpoint"].update(digest="0" * 64))
    run_evaluation(page, url, "unet")
    expect(page.locator(".report-examples .error")).to_contain_text("The model has been replaced since the evaluation")


def test_confusion_matrix_shows_exact_values(page: Page, url: str) -> None:
    row = run_evaluation(page, url, "unet")
    report = fetch_report(url, row)
    counts, present = np.array(report["confusion"]), sorted(present_classes(report))
    totals = counts.sum(1)
    largest = int(totals.argmax())
    for column in (largest, min(present, key=lambda index: counts[largest, index])):
        tr, td = present.index(largest), present.index(column)
        cell = page.locator(".confusion").last.locator("tbody tr").nth(tr).locator("td").nth(td)
        percentage = f"{100 * counts[largest, column] / totals[largest]:.2f}%"
        label = f"{CITYSCAPES.names[largest]} predicted as {CITYSCAPES.names[column]}: {percentage}"
        pixels = f"{counts[largest, column]:,} of {totals[largest]:,} pixels"
        expect(cell).to_have_attribute("aria-label", f"{label}, {pixels}")


def test_two_reports_are_shown_side_by_side(page: Page, url: str) -> None:
    run_evaluation(page, url, "ddunet")
    run_evaluation(page, url, "r2unet")
    page.reload()
    show_buttons = page.locator("#evaluations button").filter(has_text="Show")
    wait_until(lambda: show_buttons.count() >= 2)
    show_buttons.first.click()
    expect(page.locator(".report")).to_have_count(1)
    show_buttons.first.click()
    expect(page.locator(".report")).to_have_count(2)
    expect(page.locator(".difference").first).to_be_visible()
    left, right = (page.locator(".report").nth(n).bounding_box() for n in (0, 1))
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    page.locator("#evaluations button").filter(has_text="Hide").first.click()
    expect(page.locator(".report")).to_have_count(1)


def test_queued_evaluations_are_polled_and_their_reports_shown(page: Page, models: Path, scenes: Path, tmp_path: Path) -> None:
    app = create_app(load_settings(checkpoints=[models], data=scenes, state=tmp_path / "state"))
    started, finished = [], []
    page.on("request", lambda request: started.append(request.url))
    page.on("requestfinished", lambda request: finished.append(request.url))
    with live_server(app) as port:
        page.goto(f"http://127.0.0.1:{port}/#evaluation")
        expect(page.locator("#evaluations")).to_have_text("No evaluations yet. Choose a model and a split, then start one.")
        expect(page.locator("#evaluation-model option")).to_have_count(3)
        backend = block_workers(app)
        rows = page.locator("#evaluations tbody tr")
        for name in ("ddunet", "unet"):
            page.locator("#evaluation-model").select_option(name)
            page.get_by_role("button", name="Start evaluation").click()
            expect(rows.first).to_contain_text(name)
        expect(rows.first.get_by_role("status")).to_have_text("queued")
        expect(rows.last.get_by_role("status")).to_have_text("running")
        expect(rows.last).to_contain_text("running, 0 of 5")
        page.wait_for_timeout(100)
        assert len(started) - len(finished) <= 1  # polling holds no connection, as one event stream per evaluation would
        backend.release()
        expect(page.locator("#evaluations").get_by_role("status").filter(has_text="done")).to_have_count(2)
        expect(page.locator(".report")).to_have_count(2)


def test_cancel_moves_focus_to_row_and_announces_state_once(page: Page, models: Path, scenes: Path, tmp_path: Path) -> None:
    app = create_app(load_settings(checkpoints=[models], data=scenes, state=tmp_path / "state"))
    with live_server(app) as port:
        page.goto(f"http://127.0.0.1:{port}/#evaluation")
        expect(page.locator("#evaluation-model option")).to_have_count(3)
        backend = block_workers(app)
        page.get_by_role("button", name="Start evaluation").click()
        row = page.locator("#evaluations tbody tr").first
        status = row.get_by_role("status")
        expect(status).to_have_text("running")
        status.evaluate("""(status) => {
          window.announced = [];
          const observer = new MutationObserver(() => announced.push(status.textContent));
          observer.observe(status, { childList: true, characterData: true, subtree: true });
        }""")
        with page.expect_response("**/evaluate/*"):  # a poll that finds no change
            pass
        row.get_by_role("button", name="Cancel").focus()
        page.keyboard.press("Enter")
        expect(status).to_have_text("cancelled")
        expect(row).to_be_focused()
        assert page.evaluate("announced") == ["cancelled"]
        backend.release()


def test_splits_of_dataset_are_offered(page: Page, url: str) -> None:
    page.goto(f"{url}#evaluation")
    expect(page.get_by_label("Split").locator("option")).to_have_text(["train", "val"])
    expect(page.get_by_label("Split")).to_have_value("val")
    page.get_by_label("Split").select_option("train")
    page.get_by_role("button", name="Start evaluation").click()
    expect(page.locator("#evaluations tbody tr").first.locator("td").nth(1)).to_have_text("train")
    expect(page.locator(".report h2")).to_contain_text("split train")
    expect(page.get_by_label("Split")).to_have_value("train")


def test_page_says_why_nothing_can_be_evaluated_without_dataset(page: Page, models: Path, tmp_path: Path) -> None:
    app = create_app(load_settings(checkpoints=[models], state=tmp_path / "state"))
    with live_server(app) as port:
        page.goto(f"http://127.0.0.1:{port}/#evaluation")
        expect(page.locator("#dataset-problem")).to_contain_text("set SEGMENT_DATA to its directory")
        expect(page.get_by_role("button", name="Start evaluation")).to_be_disabled()
        expect(page.locator("#notice")).to_be_hidden()


def test_second_report_shows_difference_to_first(page: Page, url: str) -> None:
    base = run_evaluation(page, url, "ddunet").get_attribute("id").removeprefix("evaluation-")
    expect(page.locator(".report")).to_have_count(1)
    expect(page.locator(".difference")).to_have_count(0)
    page.locator("#evaluation-model").select_option("r2unet")
    page.get_by_role("button", name="Start evaluation").click()
    expect(page.locator(".report")).to_have_count(2)
    row, second = page.locator("#evaluations tbody tr").first, page.locator(".report").last
    expect(second.locator(".scores p")).to_contain_text("difference to the first report (ddunet)")
    location = f"{url}evaluate/{row.get_attribute('id').removeprefix('evaluation-')}"
    difference = httpx.get(f"{location}/difference", params={"base": base}).json()["scores"]["miou_present"]
    cell = second.locator(".headlines .difference").first
    expect(cell).to_contain_text(format_signed(difference["value"]))
    expect(cell).to_contain_text(" to ".join(map(format_signed, difference["interval"])))
    expect(page.locator(".report").first.locator(".difference")).to_have_count(0)
    page.locator("#evaluations button").filter(has_text="Hide").last.click()
    expect(page.locator(".difference")).to_have_count(0)


def test_reports_of_different_splits_say_why_they_are_not_compared(page: Page, url: str) -> None:
    run_evaluation(page, url, "ddunet")
    expect(page.locator(".report")).to_have_count(1)
    page.get_by_label("Split").select_option("train")
    page.get_by_role("button", name="Start evaluation").click()
    expect(page.locator(".report")).to_have_count(2)
    expect(page.locator(".report").last.locator(".scores p")).to_contain_text(
        "can't be compared: they were run on different data"
    )
    expect(page.locator(".difference")).to_have_count(0)
    expect(page.locator("#notice")).to_be_hidden()
