"""Live segmentation of the camera and of video files: frames, frame rate, and everything that stops or slows it down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import open_with_images, wait_for_masks

VIDEO = Path(__file__).parents[2] / "data/videos/sound.mp4"
RATE = "() => Number.parseFloat(document.getElementById('live-rate').textContent) > 0"
RECORD_REQUESTS = """
  window.frames_sent = [];
  window.inFlight = window.maxInFlight = 0;
  const { send } = XMLHttpRequest.prototype;
  XMLHttpRequest.prototype.send = function (body) {
    frames_sent.push(body);
    maxInFlight = Math.max(maxInFlight, ++inFlight);
    this.addEventListener("loadend", () => { inFlight--; });
    return send.call(this, body);
  };
"""
FRAME_SIZE = """async () => {
  const { width, height } = await createImageBitmap(frames_sent.at(-1));
  const { videoWidth, clientWidth } = document.querySelector(".viewport video");
  return { width, height, type: frames_sent.at(-1).type, videoWidth, clientWidth };
}"""
CAMERA_IS_OFF = "() => document.querySelector('.viewport video').srcObject.getTracks().every((t) => t.readyState === 'ended')"
HIDE_TAB = """() => {
  Object.defineProperty(document, "hidden", { value: true, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""
UNPLUG_CAMERA = "() => document.querySelector('.viewport video').srcObject.getTracks()[0].dispatchEvent(new Event('ended'))"


def start_camera(page: Page, url: str) -> None:
    """Open the page, start the simulated camera, and wait until the first frame is segmented."""
    page.add_init_script(RECORD_REQUESTS)
    page.goto(url)
    expect(page.locator("input[value=ddunet]")).to_be_checked()
    page.get_by_role("button", name="Live camera").click()
    expect(page.locator("#legend li")).not_to_have_count(0)


def test_camera_is_segmented_live(page: Page, url: str) -> None:
    start_camera(page, url)
    page.wait_for_function(RATE)
    expect(page.locator("#live-rate")).to_contain_text("frames per second")
    page.wait_for_function("() => frames_sent.length > 6")
    assert 1 <= page.evaluate("maxInFlight") <= 2
    frame = page.evaluate(FRAME_SIZE)
    assert frame["type"] == "image/jpeg"
    assert frame["width"] == min(frame["videoWidth"], frame["clientWidth"])
    mask = page.locator("canvas.mask").evaluate("({ width, height }) => ({ width, height })")
    assert mask == {"width": frame["width"], "height": frame["height"]}
    page.locator(".viewport").hover()
    expect(page.locator(".class-label")).not_to_be_empty()
    expect(page.locator("#exports")).to_be_hidden()


def test_frames_are_not_larger_than_on_the_page(page: Page, url: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    start_camera(page, url)
    frame = page.evaluate(FRAME_SIZE)
    assert frame["width"] == frame["clientWidth"] < frame["videoWidth"]


def test_smaller_frames_clear_selected_pixel(page: Page, url: str) -> None:
    start_camera(page, url)
    width = page.locator("canvas.mask").evaluate("({ width }) => width")
    page.locator(".viewport").press("ArrowRight")
    expect(page.locator(".class-label")).to_be_visible()
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("width => document.querySelector('canvas.mask').width < width", arg=width)
    expect(page.locator(".class-label")).to_be_hidden()


def test_stop_releases_camera_and_start_opens_it_again(page: Page, url: str) -> None:
    start_camera(page, url)
    page.get_by_role("button", name="Stop").click()
    page.wait_for_function(CAMERA_IS_OFF)
    page.wait_for_function("() => inFlight === 0")
    before = page.evaluate("frames_sent.length")
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_function("before => frames_sent.length > before", arg=before)


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        pytest.param("location.hash = '#evaluation'", "", id="page left"),
        pytest.param(HIDE_TAB, "Stopped because this tab was in the background.", id="tab hidden"),
        pytest.param(UNPLUG_CAMERA, "The camera was disconnected.", id="camera unplugged"),
    ],
)
def test_live_segmentation_stops(page: Page, url: str, action: str, reason: str) -> None:
    start_camera(page, url)
    page.evaluate(action)
    page.wait_for_function(CAMERA_IS_OFF)
    page.wait_for_function("() => inFlight === 0")
    expect(page.locator("#live-toggle")).to_have_text("Start")
    expect(page.locator("#live-status")).to_have_text(reason)


@pytest.mark.parametrize("status", [429, 503])
def test_busy_service_gets_no_further_request_until_retry_after(page: Page, url: str, status: int) -> None:
    page.add_init_script(RECORD_REQUESTS)
    page.goto(url)
    expect(page.locator("input[value=ddunet]")).to_be_checked()
    body = json.dumps({"code": "overloaded", "detail": "the service is busy"})
    page.route("**/segment?*", lambda route: route.fulfill(status=status, body=body, headers={"Retry-After": "60"}))
    page.get_by_role("button", name="Live camera").click()
    expect(page.locator("#live-status")).to_have_text("The service is busy. Trying again in 60 s.")
    expect(page.locator("#live-rate")).to_have_text("0.0 frames per second")
    page.wait_for_timeout(300)  # for requests that should not follow
    assert page.evaluate("frames_sent.length") <= 2
    expect(page.locator("#live-toggle")).to_have_text("Stop")


def test_live_segmentation_continues_after_busy_service(page: Page, url: str) -> None:
    page.add_init_script(RECORD_REQUESTS)
    page.goto(url)
    expect(page.locator("input[value=ddunet]")).to_be_checked()
    page.route("**/segment?*", lambda route: route.fulfill(status=503, body="", headers={"Retry-After": "1"}), times=2)
    page.get_by_role("button", name="Live camera").click()
    page.wait_for_function("() => frames_sent.length > 2")
    page.wait_for_function(RATE)
    expect(page.locator("#live-status")).to_be_empty()


def test_refused_frame_stops_with_reason(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.locator("input[value=ddunet]")).to_be_checked()
    page.route("**/segment?*", lambda route: route.fulfill(status=413, body='{"detail": "the image is too large"}'))
    page.get_by_role("button", name="Live camera").click()
    expect(page.locator("#live-status")).to_have_text("The image is too large.")
    expect(page.locator("#live-toggle")).to_have_text("Start")


def test_unreachable_service_stops_with_notice(page: Page, url: str) -> None:
    start_camera(page, url)
    page.route("**/segment?*", lambda route: route.abort())
    expect(page.get_by_role("alert")).to_contain_text("The service is not responding.")
    expect(page.locator("#live-toggle")).to_have_text("Start")


def test_camera_without_permission_shows_reason(page: Page, url: str) -> None:
    page.goto(url)
    page.evaluate(
        """() => {
          navigator.mediaDevices.getUserMedia = async () => { throw new DOMException("Permission denied", "NotAllowedError"); };
        }"""
    )
    page.get_by_role("button", name="Live camera").click()
    expect(page.get_by_role("alert")).to_have_text(
        "The camera is not available (Permission denied). Choose a video file instead."
    )
    expect(page.locator("#result")).to_be_hidden()


def test_video_file_is_segmented_until_its_end(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.locator("input[value=ddunet]")).to_be_checked()
    page.set_input_files("#files", VIDEO)
    expect(page.locator("#legend li")).not_to_have_count(0)
    expect(page.locator("#live-status")).to_have_text("The video has ended.")
    with page.expect_response(lambda response: "/segment?" in response.url):
        page.get_by_role("button", name="Start", exact=True).click()


def test_video_that_browser_cannot_decode_shows_reason(page: Page, url: str, tmp_path: Path) -> None:
    video = tmp_path / "street.mkv"
    video.write_bytes(b"not a video")
    page.goto(url)
    expect(page.locator("input[value=ddunet]")).to_be_checked()
    page.set_input_files("#files", video)
    expect(page.get_by_role("alert")).to_have_text(
        "This browser cannot play street.mkv. Choose a video in MP4 (H.264) or WebM format."
    )
    expect(page.locator("#result")).to_be_hidden()


def test_image_beside_video_is_segmented(page: Page, url: str, street: Path) -> None:
    page.goto(url)
    expect(page.locator("input[value=ddunet]")).to_be_checked()
    page.set_input_files("#files", [VIDEO, street])
    expect(page.get_by_role("alert")).to_have_text(
        "A video can only be segmented on its own: choose one video and no other file."
    )
    wait_for_masks(page)
    expect(page.locator("#live-bar")).to_be_hidden()


def test_close_shows_image_again(page: Page, url: str, street: Path) -> None:
    open_with_images(page, url, street)
    page.get_by_role("button", name="Live camera").click()
    expect(page.locator(".viewport video")).to_be_visible()
    expect(page.locator("#thumbnails [aria-current=true]")).to_have_count(0)
    page.get_by_role("button", name="Close live view").click()
    expect(page.locator(".viewport video")).to_have_count(0)
    expect(page.locator("#files")).to_be_focused()
    expect(page.locator(".viewport img")).to_be_visible()
    expect(page.locator("canvas.mask")).to_be_visible()
    expect(page.locator("#exports")).to_be_visible()


def test_added_image_replaces_live_view(page: Page, url: str, street: Path) -> None:
    start_camera(page, url)
    page.set_input_files("#files", street)
    wait_for_masks(page)
    expect(page.locator("#live-bar")).to_be_hidden()
    expect(page.locator(".viewport video")).to_have_count(0)
    page.wait_for_function("() => inFlight === 0")


def test_other_model_segments_next_frames(page: Page, url: str) -> None:
    start_camera(page, url)
    page.locator("#toggle-setup").click()
    page.locator("input[value=unet]").check()
    with page.expect_response(lambda response: "model=unet" in response.url):
        page.locator("input[value=ddunet]").uncheck()
    expect(page.locator("figcaption b")).to_have_text("unet")
    assert not page.locator(".viewport video").evaluate("(video) => video.paused")


def test_frame_rate_counts_last_two_seconds(page: Page, url: str) -> None:
    page.goto(url)
    rates = page.evaluate("""async () => {
      const { frameRate } = await import("/static/live.js");
      const times = [100, 200, 300, 400, 2100, 2200];
      return [frameRate([], 0, 0), frameRate(times.slice(0, 4), 0, 500), frameRate(times, 0, 2350), frameRate(times, 0, 9000)];
    }""")
    assert rates == [0, 8, 1.5, 0]
