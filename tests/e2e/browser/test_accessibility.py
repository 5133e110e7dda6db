"""The page for everybody: by keys alone, on a phone, by a screen reader, in the dark."""

from __future__ import annotations

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.e2e.browser.test_evaluation_page import started
from tests.e2e.browser.test_segment_page import given, labels_of

SERIOUS = ("serious", "critical")


def tab_to(page: Page, what: str) -> None:
    """Press Tab until this has the focus."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("what => document.activeElement.matches(what)", what):
            return
    raise AssertionError(f"{what} can't be reached by Tab")


def test_everything_is_done_by_keys_alone(page: Page, url: str, street: Path, segmenters) -> None:
    page.on("filechooser", lambda chooser: chooser.set_files(street))  # now: it takes a moment until the browser knows
    page.goto(url)
    expect(page.locator("input[value=ddunet]")).to_be_checked()
    tab_to(page, "#files")
    page.keyboard.press("Space")
    expect(page.locator(".strip .told")).to_have_text("done")
    tab_to(page, "#divider")
    page.keyboard.press("Home")
    expect(page.locator("#divider")).to_have_value("0")
    tab_to(page, ".stage")
    page.keyboard.press("ArrowDown")
    labels = labels_of(segmenters["ddunet"], street)
    y, x = 64 + round(256 / 40), 128
    expect(page.locator(".pointed")).to_contain_text(f"x {x}, y {y}")
    expect(page.get_by_role("status").first).to_have_text(segmenters["ddunet"].labels.names[labels[y, x]])
    tab_to(page, "#legend .class")
    page.keyboard.press("Space")
    expect(page.locator("#legend .class").first).to_have_attribute("aria-pressed", "false")
    assert page.evaluate("document.activeElement.matches('#legend .class')")  # the focus stays where it was
    tab_to(page, "#legend .only")
    page.keyboard.press("Enter")
    expect(page.locator("#legend .only").first).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Shift+Tab")
    tab_to(page, "[data-output=mask]")
    with page.expect_download():
        page.keyboard.press("Enter")


def test_a_screen_reader_is_told_what_a_mask_shows(page: Page, url: str, street: Path, segmenters) -> None:
    given(page, url, street)
    labels = labels_of(segmenters["ddunet"], street)
    largest = max(range(19), key=lambda k: (labels == k).sum())
    expect(page.get_by_role("status").first).to_contain_text(
        f"{segmenters['ddunet'].labels.names[largest]} {100 * (labels == largest).mean():.1f}%"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_no_serious_fault(page: Page, url: str, street: Path, scheme: str, width: int) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 844})
    given(page, url, street)
    page.locator("input[value=unet]").check()
    expect(page.locator("figure canvas.mask:visible")).to_have_count(2)
    faults = [fault for fault in Axe().run(page).response["violations"] if fault["impact"] in SERIOUS]
    started(page, url, "ddunet")
    expect(page.locator(".report")).to_be_visible()
    faults += [fault for fault in Axe().run(page).response["violations"] if fault["impact"] in SERIOUS]
    assert [(fault["id"], [node["html"] for node in fault["nodes"]]) for fault in faults] == []


def test_a_phone_s_width_is_enough(page: Page, url: str, street: Path) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    given(page, url, street)
    page.locator("input[value=unet]").check()
    expect(page.locator("figure canvas.mask:visible")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for button in page.locator("button:visible").all():
        box = button.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    started(page, url, "ddunet")
    expect(page.locator(".report")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
