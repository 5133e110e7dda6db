"""The camera dialog: capture an image, stop every stream, and fall back to a file chooser."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.support.browser import wait_for_masks

DELAYED_STREAMS = """() => {
  const getUserMedia = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  window.streams = [];
  const permission = new Promise((resolve) => { window.grantPermission = resolve; });
  navigator.mediaDevices.getUserMedia = async (constraints) => {
    await permission;
    const stream = await getUserMedia(constraints);
    streams.push(stream);
    return stream;
  };
}"""
PERMISSION_DENIED = """(recentClick) => {
  navigator.mediaDevices.getUserMedia = async () => { throw new DOMException("Permission denied", "NotAllowedError"); };
  Object.defineProperty(navigator, "userActivation", { value: { isActive: recentClick } });
}"""
PLAY_UNTIL_CLOSED = """() => {
  const video = document.getElementById("video");
  video.play = () => new Promise((_, reject) => {
    const interrupt = () => setTimeout(() => reject(new DOMException("interrupted by a new load request", "AbortError")));
    document.getElementById("camera-dialog").addEventListener("close", interrupt);
  });
}"""
PLAY_FAILS = """() => {
  document.getElementById("video").play = async () => { throw new DOMException("no decoder", "NotSupportedError"); };
  Object.defineProperty(navigator, "userActivation", { value: { isActive: false } });
}"""


def test_capture_image(page: Page, url: str) -> None:
    page.goto(url)
    page.get_by_role("button", name="Use camera").click()
    expect(page.locator("#camera-dialog")).to_be_visible()
    page.wait_for_function("() => document.getElementById('video').videoWidth > 0")
    page.get_by_role("button", name="Capture image").click()
    expect(page.locator("#camera-dialog")).to_be_hidden()
    wait_for_masks(page)
    expect(page.locator("#thumbnails b")).to_contain_text("camera-")
    assert page.evaluate("document.getElementById('video').srcObject") is None


def test_double_click_opens_one_stream_and_closing_stops_it(page: Page, url: str) -> None:
    page.goto(url)
    page.evaluate(DELAYED_STREAMS)
    button = page.get_by_role("button", name="Use camera")
    button.dblclick()
    expect(button).to_be_disabled()
    page.evaluate("grantPermission()")
    expect(page.locator("#camera-dialog")).to_be_visible()
    assert page.evaluate("streams.length") == 1
    page.locator("#camera-close").click()
    page.wait_for_function("() => streams.every((stream) => !stream.active)")
    expect(button).to_be_enabled()
    expect(button).to_be_focused()


def test_closing_before_preview_starts_is_no_error(page: Page, url: str) -> None:
    page.goto(url)
    page.evaluate(PLAY_UNTIL_CLOSED)
    page.get_by_role("button", name="Use camera").click()
    page.locator("#camera-close").click()
    expect(page.locator("#camera-dialog")).to_be_hidden()
    page.wait_for_timeout(100)  # an unhandled rejection would arrive here and fail the `page` fixture
    expect(page.locator("#notice")).to_be_hidden()


def test_without_permission_file_chooser_opens(page: Page, url: str) -> None:
    page.goto(url)
    page.evaluate(PERMISSION_DENIED, True)
    with page.expect_file_chooser():
        page.get_by_role("button", name="Use camera").click()
    expect(page.locator("#notice")).to_be_hidden()


def test_without_permission_and_recent_click_notice_appears(page: Page, url: str) -> None:
    page.goto(url)
    page.evaluate(PERMISSION_DENIED, False)
    page.get_by_role("button", name="Use camera").click()
    expect(page.get_by_role("alert")).to_have_text(
        "The camera is not available (Permission denied). Choose an image file instead."
    )


def test_failed_preview_closes_dialog_and_shows_notice(page: Page, url: str) -> None:
    page.goto(url)
    page.evaluate(PLAY_FAILS)
    page.get_by_role("button", name="Use camera").click()
    expect(page.get_by_role("alert")).to_contain_text("The camera is not available (no decoder).")
    expect(page.locator("#camera-dialog")).to_be_hidden()
