"""The evaluation's page: one is started, followed to its charts, listed, and set beside another."""

from __future__ import annotations

import httpx
import numpy as np
from playwright.sync_api import Locator, Page, expect

from core.labels import CITYSCAPES
from tests.service.conftest import until


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


def test_a_split_that_is_not_there_is_told(page: Page, url: str) -> None:
    page.goto(f"{url}#evaluation")
    page.get_by_label("Split").fill("night")
    page.get_by_role("button", name="Start an evaluation").click()
    expect(page.get_by_role("alert")).to_contain_text("The data has no such split; found: ")
