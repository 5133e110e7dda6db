"""The evaluation page: start, follow and cancel evaluations, and read their reports."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
from playwright.sync_api import Locator, Page, expect

from core.data.labels import CITYSCAPES
from service.app import create_app
from service.settings import load_settings
from tests.support.browser import run_evaluation
from tests.support.fake_backends import block_workers
from tests.support.live_server import live_server
from tests.support.wait import wait_until


def fetch_report(url: str, row: Locator) -> dict:
    return httpx.get(f"{url}evaluate/{row.get_attribute('id').removeprefix('evaluation-')}").json()["report"]


def test_report_shows_scores_of_evaluation(page: Page, url: str) -> None:
    row = run_evaluation(page, url, "unet")
    report, shown = fetch_report(url, row), page.locator(".report").last
    expect(shown.locator("h2")).to_have_text(f"unet on {report['data']['name']}, split val")
    for n, key in enumerate(("miou_present", "miou", "pixel_accuracy")):
        expect(shown.locator(".headlines tbody tr").nth(n)).to_contain_text(f"{report['scores'][key]:.3f}")
    low, high = report["intervals"]["pixel_accuracy"]
    expect(shown.locator(".headlines tbody tr").nth(2)).to_contain_text(f"{low:.3f} to {high:.3f}")
    for n, scores in enumerate(report["classes"]):
        iou = "–" if scores["iou"] is None else f"{scores['iou']:.3f}"
        expect(shown.locator(".bars dd:not(.bar)").nth(n)).to_have_text(iou)
    color = f"rgb({', '.join(map(str, CITYSCAPES.colors[0]))})"
    expect(shown.locator(".bars .bar i").first).to_have_css("background-color", color)


def test_confusion_matrix_shows_exact_values(page: Page, url: str) -> None:
    row = run_evaluation(page, url, "unet")
    counts = np.array(fetch_report(url, row)["confusion"])
    totals = counts.sum(1)
    largest = int(totals.argmax())
    for column in (largest, int(counts[largest, :19].argmin())):
        cell = page.locator(".confusion").last.locator("tbody tr").nth(largest).locator("td").nth(column)
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


def test_unknown_split_is_reported(page: Page, url: str) -> None:
    page.goto(f"{url}#evaluation")
    page.get_by_label("Split").fill("night")
    page.get_by_role("button", name="Start evaluation").click()
    expect(page.get_by_role("alert")).to_have_attribute("data-code", "unknown_split")
    expect(page.get_by_role("alert")).to_contain_text("val")  # the splits that there are
