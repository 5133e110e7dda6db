"""The page where the service is gone, busy, stopping, or asks for a key."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from service.app import create_app
from service.settings import load_settings
from tests.e2e.browser.test_evaluation_page import started
from tests.e2e.browser.test_segment_page import done
from tests.integration.service.conftest import listening, shut, until
from tests.support.service_process import Process


def test_a_service_that_has_gone_is_told_and_the_photograph_is_kept(
    page: Page, models: Path, street: Path, tmp_path: Path
) -> None:
    service = Process(tmp_path, SEGMENT_CHECKPOINTS=models)
    try:
        service.until_ready()
        page.goto(service.url)
        expect(page.locator("input[value=ddunet]")).to_be_checked()
        service.process.kill()
        service.process.wait()
        page.set_input_files("#files", street)
        expect(page.get_by_role("alert")).to_contain_text("The service does not answer.")
        expect(page.locator(".strip .told")).to_contain_text("The service does not answer.")
        again = Process(tmp_path, SEGMENT_CHECKPOINTS=models, SEGMENT_PORT=service.port)
        try:
            again.port = service.port
            again.until_ready()
            page.get_by_role("button", name="Try again").click()
            expect(page.locator("#content")).to_be_focused()
            done(page)
            expect(page.get_by_role("alert")).to_be_hidden()
        finally:
            again.process.kill()
            again.process.wait()
    finally:
        service.process.kill()


def test_that_nobody_answers_is_over_with_the_next_answer(page: Page, url: str) -> None:
    started(page, url, "ddunet")
    button = page.locator("#jobs tbody button").first
    expect(button).to_have_text("Hide")
    button.click()
    page.route("**/evaluate/*", lambda route: route.abort())
    button.click()
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer.")
    page.unroute("**/evaluate/*")
    button.click()
    expect(page.locator(".report")).to_be_visible()
    expect(page.locator("#notice")).to_be_hidden()


def test_a_photograph_that_failed_can_be_tried_again_after_another_one_came_through(page: Page, url: str, street: Path) -> None:
    page.goto(url)
    expect(page.locator("input[value=ddunet]")).to_be_checked()
    page.route("**/segment?*", lambda route: route.abort(), times=1)
    page.set_input_files("#files", [street, street])
    expect(page.locator(".strip .told").filter(has_text="done")).to_have_count(1)
    expect(page.locator(".strip .told.bad")).to_have_count(1)
    page.get_by_role("button", name="Try again").click()
    done(page, 2)
    expect(page.locator("#notice")).to_be_hidden()


def test_turning_the_page_ends_its_notice_and_tries_photographs_again(page: Page, url: str, street: Path) -> None:
    page.goto(url)
    expect(page.locator("input[value=ddunet]")).to_be_checked()
    page.route("**/segment?*", lambda route: route.abort(), times=1)
    page.set_input_files("#files", street)
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer.")
    page.locator("#to-evaluation").click()
    expect(page.locator("#notice")).to_be_hidden()
    page.locator("#to-segment").click()
    done(page)


def test_models_that_could_not_be_told_are_asked_for_when_the_page_is_turned(page: Page, url: str) -> None:
    page.route("**/models", lambda route: route.abort(), times=1)
    page.goto(url)
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer.")
    page.locator("#to-evaluation").click()
    expect(page.locator("#start-model option")).to_have_count(3)
    expect(page.locator("#notice")).to_be_hidden()


def test_what_is_not_wanted_before_it_is_sent_is_not_sent(page: Page, url: str) -> None:
    posted = []
    page.on("request", lambda asked: posted.append(asked.url) if asked.method == "POST" else None)
    page.goto(url)
    code = page.evaluate("""async () => {
      const { post } = await import("/static/service.js");
      const sent = await post("segment", new Blob(["x"]), () => {}, AbortSignal.abort()).catch(({ code }) => code);
      await fetch("healthz"); // until then a request would have been seen
      return sent;
    }""")
    assert (code, posted) == ("aborted", [])


def test_a_busy_service_is_asked_again(page: Page, models: Path, street: Path, tmp_path: Path) -> None:
    app = create_app(load_settings(checkpoints=[models], queue=1, state=tmp_path / "state"))
    with listening(app) as port:
        page.goto(f"http://127.0.0.1:{port}/")
        expect(page.locator("input[value=ddunet]")).to_be_checked()
        gate = shut(app)
        page.set_input_files("#files", [street, street])
        expect(page.locator(".strip .told").filter(has_text="the service is busy: again in")).to_have_count(1)
        gate.set()
        done(page, 2)


@pytest.fixture
def locked(models: Path, scenes: Path, tmp_path: Path):
    settings = load_settings(
        checkpoints=[models],
        data=scenes,
        state=tmp_path / "state",
        api_keys=f"segment:{'p' * 20},operate:{'o' * 20}",
        allowed_hosts="127.0.0.1",
    )
    with listening(create_app(settings)) as port:
        yield f"http://127.0.0.1:{port}/"


def test_a_service_with_keys_asks_for_one_and_keeps_it_until_the_tab_is_closed(page: Page, locked: str, street: Path) -> None:
    page.goto(locked)
    key = page.get_by_label("This service asks for a key")
    expect(key).to_be_focused()
    key.fill("wrong" * 4)
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("The service does not know this key.")
    expect(key).to_be_visible()
    key.fill("with a space")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("no spaces")
    key.fill("p" * 20)
    page.keyboard.press("Enter")
    expect(page.locator("#key-form")).to_be_hidden()
    expect(page.locator("#content")).to_be_focused()
    page.set_input_files("#files", street)
    done(page)
    expect(page.locator("#curl")).to_contain_text('-H "Authorization: Bearer $KEY"')
    assert "pppp" not in page.content()
    page.reload()
    expect(page.locator("input[value=ddunet]")).to_be_checked()
    assert page.evaluate("localStorage.length") == 0


def test_an_evaluation_asks_for_a_key_of_its_own_role(page: Page, locked: str) -> None:
    page.goto(f"{locked}#evaluation")
    page.get_by_label("This service asks for a key").fill("p" * 20)
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("needs a key of the role operate")
    page.locator("#to-segment").click()
    expect(page.locator("#key-form")).to_be_hidden()
    expect(page.locator("#notice")).to_be_hidden()
    page.locator("#to-evaluation").click()
    page.get_by_label("This service asks for a key").fill("o" * 20)
    page.keyboard.press("Enter")
    expect(page.locator("#jobs")).to_contain_text("No evaluation yet.")
    page.get_by_role("button", name="Start an evaluation").click()
    expect(page.locator(".report h2")).to_be_visible()
    until(lambda: page.locator("#jobs tbody tr").count() == 1)
