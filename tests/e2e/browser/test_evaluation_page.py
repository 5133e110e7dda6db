"""The evaluation's page: one is started, followed to its charts, listed, and set beside another."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect

from core.data.labels import CITYSCAPES
from service.app import create_app
from service.settings import load_settings
from tests.integration.service.conftest import listening, shut, until

CONTRASTS = """(cell) => {
  const canvas = document.createElement("canvas").getContext("2d");
  const light = (colour) => {
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return Array.from({ length: 101 }, (_, share) => {
    cell.style.setProperty("--of", `${share}%`);
    const { color, backgroundColor } = getComputedStyle(cell);
    const [low, high] = [light(color), light(backgroundColor)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  });
}"""  # of the text, at every share of a row, after WCAG 2


def started(page: Page, url: str, model: str) -> Locator:
    page.goto(f"{url}#evaluation")
    expect(page.locator("#start-model option")).to_have_count(3)
    expect(page.locator("#jobs")).not_to_be_empty()  # the list has come
    before = page.locator("#jobs tbody tr").count()
    page.locator("#start-model").select_option(model)
    page.get_by_role("button", name="Start an evaluation").click()
    until(lambda: page.locator("#jobs tbody tr").count() > before)
    row = page.locator("#jobs tbody tr").first
    expect(row).to_contain_text("done")
    return row


def report_of(url: str, row: Locator) -> dict:
    return httpx.get(f"{url}evaluate/{row.get_attribute('id').removeprefix('job-')}").json()["report"]


def test_from_a_start_to_scores_bars_and_the_confusion_matrix(page: Page, url: str) -> None:
    row = started(page, url, "unet")
    report, told = report_of(url, row), page.locator(".report").last
    expect(told.locator("h2")).to_have_text(f"unet on val of {report['data']['name']}")
    scores = told.locator(".headlines tbody tr")
    expect(scores.nth(2)).to_contain_text(f"{report['scores']['pixel_accuracy']:.3f}")
    low, high = report["intervals"]["pixel_accuracy"]
    expect(scores.nth(2)).to_contain_text(f"{low:.3f} to {high:.3f}")
    for k, found in enumerate(report["classes"]):
        expect(told.locator(".bars dd:not(.bar)").nth(k)).to_have_text("–" if found["iou"] is None else f"{found['iou']:.3f}")
    colour = f"rgb({', '.join(map(str, CITYSCAPES.colours[0]))})"
    expect(told.locator(".bar i").first).to_have_css("background-color", colour)
    counts = np.array(report["confusion"])
    shares = 100 * counts[:, :19] / np.maximum(counts.sum(1, keepdims=True), 1)
    for i, j in ((0, 0), (0, 1), (10, 10)):
        cell = told.locator(".confusion tbody tr").nth(i).locator("td").nth(j)
        expect(cell).to_have_attribute("title", f"{CITYSCAPES.names[i]} as {CITYSCAPES.names[j]}: {shares[i, j]:.2f} %")


def test_two_reports_side_by_side_and_the_list_of_earlier_ones(page: Page, url: str) -> None:
    started(page, url, "ddunet")
    started(page, url, "r2unet")
    page.reload()
    shows = page.locator("#jobs tbody button").filter(has_text="Show")
    until(lambda: shows.count() >= 2)
    shows.first.click()
    expect(page.locator(".report")).to_have_count(1)
    page.locator("#jobs tbody button").filter(has_text="Show").first.click()
    expect(page.locator(".report")).to_have_count(2)
    left, right = (page.locator(".report").nth(n).bounding_box() for n in (0, 1))
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    page.locator("#jobs tbody button").filter(has_text="Hide").first.click()
    expect(page.locator(".report")).to_have_count(1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_share_of_the_confusion_matrix_can_be_read(page: Page, url: str, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    started(page, url, "ddunet")
    contrasts = page.locator(".confusion td").last.evaluate(CONTRASTS)
    assert min(contrasts) >= 4.5 and contrasts[100] < contrasts[50] < contrasts[0]


def test_what_is_queued_takes_no_connection_and_is_shown_when_it_is_done(
    page: Page, models: Path, scenes: Path, tmp_path: Path
) -> None:
    app = create_app(load_settings(checkpoints=[models], data=scenes, state=tmp_path / "state"))
    asked, ended = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfinished", lambda request: ended.append(request.url))
    with listening(app) as port:
        page.goto(f"http://127.0.0.1:{port}/#evaluation")
        expect(page.locator("#start-model option")).to_have_count(3)
        gate = shut(app)
        for name in ("ddunet", "unet"):
            page.locator("#start-model").select_option(name)
            page.get_by_role("button", name="Start an evaluation").click()
            expect(page.locator("#jobs tbody tr").first).to_contain_text(name)
        expect(page.locator("#jobs tbody tr").first.get_by_role("status")).to_have_text("queued")
        expect(page.locator("#jobs tbody tr").last.get_by_role("status")).to_have_text("running")
        expect(page.locator("#jobs tbody tr").last).to_contain_text("running, 0 of 5")
        page.wait_for_timeout(100)
        assert len(asked) - len(ended) <= 1  # a look at them now and then, and no stream for each
        gate.set()
        expect(page.locator("#jobs").get_by_role("status").filter(has_text="done")).to_have_count(2)
        expect(page.locator(".report")).to_have_count(2)


def test_after_cancel_the_focus_is_in_the_row_and_only_its_state_is_said(
    page: Page, models: Path, scenes: Path, tmp_path: Path
) -> None:
    app = create_app(load_settings(checkpoints=[models], data=scenes, state=tmp_path / "state"))
    with listening(app) as port:
        page.goto(f"http://127.0.0.1:{port}/#evaluation")
        expect(page.locator("#start-model option")).to_have_count(3)
        gate = shut(app)
        page.get_by_role("button", name="Start an evaluation").click()
        row = page.locator("#jobs tbody tr").first
        status = row.get_by_role("status")
        expect(status).to_have_text("running")
        status.evaluate("""(status) => {
          window.said = [];
          const changes = new MutationObserver(() => said.push(status.textContent));
          changes.observe(status, { childList: true, characterData: true, subtree: true });
        }""")
        with page.expect_response("**/evaluate/*"):  # once more, and nothing has changed
            pass
        row.get_by_role("button", name="Cancel").focus()
        page.keyboard.press("Enter")
        expect(status).to_have_text("cancelled")
        expect(row).to_be_focused()
        assert page.evaluate("said") == ["cancelled"]
        gate.set()


def test_a_split_that_is_not_there_is_told(page: Page, url: str) -> None:
    page.goto(f"{url}#evaluation")
    page.get_by_label("Split").fill("night")
    page.get_by_role("button", name="Start an evaluation").click()
    expect(page.get_by_role("alert")).to_contain_text("The data has no such split; found: ")
