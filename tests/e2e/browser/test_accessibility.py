"""Accessibility: keyboard, screen readers, contrast, dark theme, and the width of a phone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, Route, expect

from tests.support.browser import contrast_ratio, open_with_images, predict_labels, run_evaluation, show_setup

SERIOUS = ("serious", "critical")
MIN_CONTRAST = 4.5  # WCAG 2, level AA
COORDINATES = re.compile(r"x \d+, y \d+")
PHONE = {"width": 390, "height": 844}


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until an element that matches the selector has the focus."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{selector} cannot be reached with Tab")


def serious_violations(page: Page) -> list[tuple[str, list[str]]]:
    violations = Axe().run(page).response["violations"]
    return [
        (violation["id"], [node["html"] for node in violation["nodes"]])
        for violation in violations
        if violation["impact"] in SERIOUS
    ]


def test_segment_page_works_with_keyboard_only(page: Page, url: str, street: Path, segmenters) -> None:
    page.on("filechooser", lambda chooser: chooser.set_files(street))  # before the page opens: it takes effect with a delay
    page.goto(url)
    expect(page.locator("input[value=ddunet]")).to_be_checked()
    tab_to(page, "#files")
    page.keyboard.press("Space")
    expect(page.locator("#thumbnails .status")).to_have_text("done")
    tab_to(page, "#divider")
    page.keyboard.press("Home")
    expect(page.locator("#divider")).to_have_value("0")
    tab_to(page, ".viewport")
    page.keyboard.press("ArrowDown")
    labels = predict_labels(segmenters["ddunet"], street)
    y, x = 64 + round(256 / 40), 128
    expect(page.locator(".pixel-info")).to_contain_text(f"x {x}, y {y}")
    expect(page.locator("#announcement")).to_have_text(segmenters["ddunet"].labels.names[labels[y, x]])
    tab_to(page, "#legend .class")
    page.keyboard.press("Space")
    expect(page.locator("#legend .class").first).to_have_attribute("aria-pressed", "false")
    assert page.evaluate("document.activeElement.matches('#legend .class')")  # although the buttons are new elements
    tab_to(page, "#legend .only")
    page.keyboard.press("Enter")
    expect(page.locator("#legend .only").first).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Shift+Tab")
    tab_to(page, "[data-output=mask]")
    with page.expect_download():
        page.keyboard.press("Enter")


@pytest.mark.parametrize("modifier", ["altKey", "ctrlKey", "metaKey"])
def test_arrow_keys_with_modifier_stay_with_browser(page: Page, url: str, street: Path, modifier: str) -> None:
    open_with_images(page, url, street)
    press = "(element, keys) => element.dispatchEvent(new KeyboardEvent('keydown', {cancelable: true, ...keys}))"
    viewport = page.locator(".viewport")
    assert viewport.evaluate(press, {"key": "ArrowLeft", modifier: True})  # true: the default action was not prevented
    expect(page.locator(".pixel-info")).not_to_contain_text(COORDINATES)
    assert not viewport.evaluate(press, {"key": "ArrowLeft"})
    expect(page.locator(".pixel-info")).to_contain_text(COORDINATES)


def test_screen_reader_announces_largest_class(page: Page, url: str, street: Path, segmenters) -> None:
    open_with_images(page, url, street)
    labels = predict_labels(segmenters["ddunet"], street)
    largest = max(range(19), key=lambda index: (labels == index).sum())
    expect(page.locator("#announcement")).to_contain_text(
        f"{segmenters['ddunet'].labels.names[largest]} {100 * (labels == largest).mean():.1f}%"
    )


def test_navigation_changes_title_and_focus(page: Page, url: str) -> None:
    page.goto(url)
    expect(page).to_have_title("Segment – Street-scene segmentation")
    page.locator("#nav-evaluation").click()
    expect(page).to_have_title("Evaluation – Street-scene segmentation")
    expect(page.locator("#evaluation")).to_be_focused()
    page.go_back()
    expect(page).to_have_title("Segment – Street-scene segmentation")
    expect(page.locator("#segment")).to_be_focused()


def test_confusion_matrix_is_read_cell_by_cell(page: Page, url: str) -> None:
    run_evaluation(page, url, "ddunet")
    tab_to(page, ".confusion td")
    readout, focused = page.locator(".readout"), page.locator(".confusion td:focus")
    expect(focused).to_have_attribute("aria-label", readout.inner_text())
    expect(readout).to_contain_text("road")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    cell = page.locator(".confusion tbody tr").nth(2).locator("td").nth(1)
    expect(cell).to_be_focused()
    expect(readout).to_have_text(cell.get_attribute("aria-label") or "no label")
    page.keyboard.press("Tab")
    expect(page.locator(".confusion td:focus")).to_have_count(0)  # the matrix is a single stop
    page.locator(".confusion tbody tr").nth(5).locator("td").nth(6).hover()
    expect(readout).to_contain_text("pole")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_unusable_model_has_readable_text(page: Page, url: str, scheme: str) -> None:
    def with_unusable_model(route: Route) -> None:
        response = route.fetch()
        content = response.json()
        content["models"][1] |= {"labels": None, "loaded": False, "error": "the file is damaged"}
        route.fulfill(response=response, json=content)

    page.emulate_media(color_scheme=scheme)
    page.route("**/models", with_unusable_model)
    page.goto(url)
    unusable = page.locator(".model.unusable")
    expect(unusable).to_contain_text("Cannot be loaded: the file is damaged")
    assert min(contrast_ratio(unusable.locator(part)) for part in ("b", "small.error")) >= MIN_CONTRAST


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_confusion_matrix_has_readable_text_on_every_color(page: Page, url: str, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    run_evaluation(page, url, "ddunet")
    cell = page.locator(".confusion td").last
    ratios = []
    for percentage in range(101):
        cell.evaluate("(cell, percentage) => cell.style.setProperty('--fraction', `${percentage}%`)", percentage)
        ratios.append(contrast_ratio(cell))
    assert min(ratios) >= MIN_CONTRAST
    assert ratios[100] < ratios[50] < ratios[0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_no_serious_violation(page: Page, url: str, street: Path, scheme: str, width: int) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 844})
    open_with_images(page, url, street)
    page.locator(".viewport").hover()
    violations = serious_violations(page)
    show_setup(page)
    page.locator("input[value=unet]").check()
    expect(page.locator("figure canvas.mask:visible")).to_have_count(2)
    page.get_by_label("Confidence").check()
    expect(page.locator(".pending:visible")).to_have_count(0)
    violations += serious_violations(page)
    page.get_by_role("button", name="Live camera").click()
    expect(page.locator("#live-rate")).not_to_be_empty()
    violations += serious_violations(page)
    run_evaluation(page, url, "ddunet")
    expect(page.locator(".report")).to_be_visible()
    assert violations + serious_violations(page) == []


def test_pages_fit_on_phone(page: Page, url: str, street: Path) -> None:
    def assert_fits() -> None:
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        for button in page.locator("button:visible").all():
            box = button.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]

    page.set_viewport_size(PHONE)
    open_with_images(page, url, street)
    assert_fits()
    show_setup(page)
    page.locator("input[value=unet]").check()
    expect(page.locator("figure canvas.mask:visible")).to_have_count(2)
    assert_fits()
    page.get_by_role("button", name="Live camera").click()
    expect(page.locator("#live-rate")).not_to_be_empty()
    assert_fits()
    run_evaluation(page, url, "ddunet")
    expect(page.locator(".report")).to_be_visible()
    expect(page.locator("#evaluations button").first).to_have_text("Hide")
    assert_fits()
    name = page.locator("#evaluations tbody td").first
    name.evaluate("(cell) => { cell.textContent = 'ddunet_width_64_cityscapes_seed_0'; }")  # wider than the screen allows
    assert_fits()
