"""The page while the service is unreachable, busy, behind a broken proxy, or protected by API keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from service.app import create_app
from service.settings import load_settings
from tests.support.browser import open_with_images, run_evaluation, wait_for_masks
from tests.support.fake_backends import block_workers
from tests.support.live_server import live_server
from tests.support.service_process import ServiceProcess
from tests.support.wait import wait_until

UNREACHABLE = "The service is not responding."
OVERLOADED = {
    "status": 503,
    "content_type": "application/problem+json",
    "body": '{"code": "overloaded", "detail": "the service is busy"}',
    "headers": {"Retry-After": "60"},
}


def test_images_are_kept_while_service_is_down(page: Page, models: Path, street: Path, tmp_path: Path) -> None:
    service = ServiceProcess(tmp_path, SEGMENT_CHECKPOINTS=models)
    try:
        service.wait_until_ready()
        page.goto(service.url)
        expect(page.locator("input[value=ddunet]")).to_be_checked()
        service.process.kill()
        service.process.wait()
        page.set_input_files("#files", street)
        expect(page.get_by_role("alert")).to_contain_text(UNREACHABLE)
        expect(page.locator("#thumbnails .status")).to_contain_text(UNREACHABLE)
        restarted = ServiceProcess(tmp_path, SEGMENT_CHECKPOINTS=models, SEGMENT_PORT=service.port)
        try:
            restarted.port = service.port
            restarted.wait_until_ready()
            page.get_by_role("button", name="Try again").click()
            expect(page.locator("#content")).to_be_focused()
            wait_for_masks(page)
            expect(page.get_by_role("alert")).to_be_hidden()
        finally:
            restarted.process.kill()
            restarted.process.wait()
    finally:
        service.process.kill()


def test_notice_disappears_with_next_response(page: Page, url: str) -> None:
    run_evaluation(page, url, "ddunet")
    button = page.locator("#evaluations button").first
    expect(button).to_have_text("Hide")
    button.click()
    page.route("**/evaluate/*", lambda route: route.abort())
    button.click()
    expect(page.get_by_role("alert")).to_contain_text(UNREACHABLE)
    page.unroute("**/evaluate/*")
    button.click()
    expect(page.locator(".report")).to_be_visible()
    expect(page.locator("#notice")).to_be_hidden()


def test_failed_image_can_be_retried_after_another_succeeded(page: Page, url: str, street: Path) -> None:
    page.goto(url)
    expect(page.locator("input[value=ddunet]")).to_be_checked()
    page.route("**/segment?*", lambda route: route.abort(), times=1)
    page.set_input_files("#files", [street, street])
    expect(page.locator("#thumbnails .status").filter(has_text="done")).to_have_count(1)
    expect(page.locator("#thumbnails .status.error")).to_have_count(1)
    page.get_by_role("button", name="Try again").click()
    wait_for_masks(page, 2)
    expect(page.locator("#notice")).to_be_hidden()


def test_navigation_hides_notice_and_retries_images(page: Page, url: str, street: Path) -> None:
    page.goto(url)
    expect(page.locator("input[value=ddunet]")).to_be_checked()
    page.route("**/segment?*", lambda route: route.abort(), times=1)
    page.set_input_files("#files", street)
    expect(page.get_by_role("alert")).to_contain_text(UNREACHABLE)
    page.locator("#nav-evaluation").click()
    expect(page.locator("#notice")).to_be_hidden()
    page.locator("#nav-segment").click()
    wait_for_masks(page)


def test_navigation_reloads_models_after_failure(page: Page, url: str) -> None:
    page.route("**/models", lambda route: route.abort(), times=1)
    page.goto(url)
    expect(page.get_by_role("alert")).to_contain_text(UNREACHABLE)
    page.locator("#nav-evaluation").click()
    expect(page.locator("#evaluation-model option")).to_have_count(3)
    expect(page.locator("#notice")).to_be_hidden()


@pytest.mark.parametrize("body", ["null", '""', "[]", '{"detail": ""}', '{"detail": [{"msg": "x"}]}', "<html>"])
def test_error_body_of_proxy_is_reported_and_queue_continues(page: Page, url: str, street: Path, body: str) -> None:
    page.goto(url)
    expect(page.locator("input[value=ddunet]")).to_be_checked()
    page.route("**/segment?*", lambda route: route.fulfill(status=502, body=body), times=2)
    page.set_input_files("#files", [street, street, street])
    expect(page.locator("#thumbnails .status.error")).to_have_text(
        ["The server answered with HTTP status 502 and no explanation; try again later."] * 2
    )
    expect(page.locator("#thumbnails .status").nth(2)).to_have_text("done")


def test_response_of_another_server_is_reported(page: Page, url: str, street: Path) -> None:
    page.goto(url)
    expect(page.locator("input[value=ddunet]")).to_be_checked()
    page.route("**/segment?*", lambda route: route.fulfill(status=200, body="<html>Sign in</html>"), times=1)
    page.set_input_files("#files", street)
    expect(page.locator("#thumbnails .status.error")).to_contain_text("does not come from the segmentation service")


def test_response_without_timing_header_shows_total_time(page: Page, url: str, street: Path) -> None:
    page.add_init_script("""
      const { getResponseHeader } = XMLHttpRequest.prototype;
      XMLHttpRequest.prototype.getResponseHeader = function (name) {
        return name === "Server-Timing" ? null : getResponseHeader.call(this, name);
      };
    """)
    open_with_images(page, url, street)
    expect(page.locator(".timing")).to_contain_text("ms total")
    expect(page.locator(".timing")).not_to_contain_text("server")


def test_aborted_upload_is_not_sent(page: Page, url: str) -> None:
    posts = []
    page.on("request", lambda request: posts.append(request.url) if request.method == "POST" else None)
    page.goto(url)
    code = page.evaluate("""async () => {
      const { postImage } = await import("/static/api.js");
      const code = await postImage("segment", new Blob(["x"]), () => {}, AbortSignal.abort()).catch(({ code }) => code);
      await fetch("healthz"); // a request that was sent before has been recorded by now
      return code;
    }""")
    assert (code, posts) == ("aborted", [])


def test_finished_upload_leaves_no_listener(page: Page, url: str) -> None:
    page.goto(url)
    page.route("**/segment", lambda route: route.fulfill(headers={"Segment-Digest": "0"}))
    listeners = page.evaluate("""async () => {
      const { postImage } = await import("/static/api.js");
      const { signal } = new AbortController(), listeners = new Set();
      signal.addEventListener = (_, listener) => listeners.add(listener);
      signal.removeEventListener = (_, listener) => listeners.delete(listener);
      await postImage("segment", new Blob(["x"]), () => {}, signal);
      await new Promise((resolve) => setTimeout(resolve)); // the request ends after its response has arrived
      return listeners.size;
    }""")
    assert listeners == 0


def test_busy_service_is_retried(page: Page, models: Path, street: Path, tmp_path: Path) -> None:
    app = create_app(load_settings(checkpoints=[models], queue=1, state=tmp_path / "state"))
    with live_server(app) as port:
        page.goto(f"http://127.0.0.1:{port}/")
        expect(page.locator("input[value=ddunet]")).to_be_checked()
        backend = block_workers(app)
        page.set_input_files("#files", [street, street])
        expect(page.locator("#thumbnails .status").filter(has_text="server busy, retrying in")).to_have_count(1)
        backend.release()
        wait_for_masks(page, 2)


def test_removing_an_image_that_waits_for_retry_frees_its_slot(page: Page, url: str, street: Path, tmp_path: Path) -> None:
    next_image = tmp_path / "next.png"
    next_image.write_bytes(street.read_bytes())
    page.goto(url)
    expect(page.locator("input[value=ddunet]")).to_be_checked()
    page.route("**/segment?*", lambda route: route.fulfill(**OVERLOADED), times=2)
    page.set_input_files("#files", [street, street])
    expect(page.locator("#thumbnails .status").filter(has_text="server busy, retrying in 60 s")).to_have_count(2)
    page.set_input_files("#files", next_image)
    expect(page.locator("#thumbnails .status").last).to_have_text("waiting")
    page.locator("#thumbnails .remove").first.click()
    expect(page.locator("#thumbnails .status").last).to_have_text("done")


@pytest.fixture
def protected_url(models: Path, scenes: Path, tmp_path: Path) -> Iterator[str]:
    """A service with two API keys, one for each role."""
    settings = load_settings(
        checkpoints=[models],
        data=scenes,
        state=tmp_path / "state",
        api_keys=f"segment:{'p' * 20},admin:{'o' * 20}",
        allowed_hosts="127.0.0.1",
    )
    with live_server(create_app(settings)) as port:
        yield f"http://127.0.0.1:{port}/"


def test_api_key_is_requested_and_kept_in_tab(page: Page, protected_url: str, street: Path) -> None:
    page.goto(protected_url)
    key = page.get_by_label("This service requires an API key")
    expect(key).to_be_focused()
    key.fill("wrong" * 4)
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("The service does not accept this API key. Enter another key.")
    expect(key).to_be_visible()
    key.fill("with a space")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("without spaces")
    key.fill("p" * 20)
    page.keyboard.press("Enter")
    expect(page.locator("#key-form")).to_be_hidden()
    expect(page.locator("#content")).to_be_focused()
    page.set_input_files("#files", street)
    wait_for_masks(page)
    expect(page.locator("#curl-command")).to_contain_text('-H "Authorization: Bearer $KEY"')
    assert "pppp" not in page.content()
    page.reload()
    expect(page.locator("input[value=ddunet]")).to_be_checked()
    assert page.evaluate("localStorage.length") == 0


def test_evaluation_requests_admin_key(page: Page, protected_url: str) -> None:
    page.goto(f"{protected_url}#evaluation")
    page.get_by_label("This service requires an API key").fill("p" * 20)
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_attribute("data-code", "insufficient_scope")
    expect(page.get_by_role("alert")).to_contain_text("admin")
    page.locator("#nav-segment").click()
    expect(page.locator("#key-form")).to_be_hidden()
    expect(page.locator("#notice")).to_be_hidden()
    page.locator("#nav-evaluation").click()
    page.get_by_label("This service requires an API key").fill("o" * 20)
    page.keyboard.press("Enter")
    expect(page.locator("#evaluations")).to_contain_text("No evaluations yet.")
    page.get_by_role("button", name="Start evaluation").click()
    expect(page.locator(".report h2")).to_be_visible()
    wait_until(lambda: page.locator("#evaluations tbody tr").count() == 1)
