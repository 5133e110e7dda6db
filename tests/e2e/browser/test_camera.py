"""The camera: a photograph, one stream at a time, and what is told where there is none."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.e2e.browser.test_segment_page import done

COUNTED = """() => {
  const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  window.streams = [];
  const leave = new Promise((given) => { window.giveLeave = given; });
  navigator.mediaDevices.getUserMedia = async (wish) => {
    await leave;
    const stream = await ask(wish);
    streams.push(stream);
    return stream;
  };
}"""
REFUSED = """() => {
  navigator.mediaDevices.getUserMedia = async () => { throw new DOMException("Permission denied", "NotAllowedError"); };
  Object.defineProperty(navigator, "userActivation", { value: { isActive: %s } });
}"""


def test_a_photograph_from_the_camera(page: Page, url: str) -> None:
    page.goto(url)
    page.get_by_role("button", name="Use the camera").click()
    expect(page.locator("#camera-dialog")).to_be_visible()
    page.wait_for_function("() => document.getElementById('video').videoWidth > 0")
    page.get_by_role("button", name="Take the photograph").click()
    expect(page.locator("#camera-dialog")).to_be_hidden()
    done(page)
    expect(page.locator(".strip b")).to_contain_text("camera-")
    assert page.evaluate("document.getElementById('video').srcObject") is None


def test_a_double_click_asks_for_one_stream_and_none_stays_on(page: Page, url: str) -> None:
    page.goto(url)
    page.evaluate(COUNTED)
    button = page.get_by_role("button", name="Use the camera")
    button.dblclick()
    expect(button).to_be_disabled()
    page.evaluate("giveLeave()")
    expect(page.locator("#camera-dialog")).to_be_visible()
    assert page.evaluate("streams.length") == 1
    page.locator("#camera-close").click()
    page.wait_for_function("() => streams.every((stream) => !stream.active)")
    expect(button).to_be_enabled()
    expect(button).to_be_focused()


def test_without_a_camera_a_file_is_asked_for(page: Page, url: str) -> None:
    page.goto(url)
    page.evaluate(REFUSED % "true")
    with page.expect_file_chooser():
        page.get_by_role("button", name="Use the camera").click()
    expect(page.locator("#notice")).to_be_hidden()


def test_a_camera_refused_long_after_the_click_is_told(page: Page, url: str) -> None:
    page.goto(url)
    page.evaluate(REFUSED % "false")
    page.get_by_role("button", name="Use the camera").click()
    expect(page.get_by_role("alert")).to_have_text("The camera can't be used (Permission denied); choose a photograph instead.")
