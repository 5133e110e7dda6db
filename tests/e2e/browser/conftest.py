"""The page of a service in this process, with three models and data, in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from core.inference.segmenter import Segmenter
from service.app import create_app
from service.settings import load_settings
from tests.conftest import make_checkpoint
from tests.e2e.browser.browser import chromium
from tests.integration.service.conftest import listening
from tests.support.sample_images import encoded, photo

NAMES = ("ddunet", "r2unet", "unet")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(NAMES):
        make_checkpoint(folder / f"{name}.safetensors", name, seed=seed)
    return folder


@pytest.fixture(scope="session")
def segmenters(models: Path) -> dict[str, Segmenter]:
    return {name: Segmenter(models / f"{name}.safetensors") for name in NAMES}


@pytest.fixture(scope="session")
def url(models: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = load_settings(checkpoints=[models], model="ddunet", data=scenes, state=tmp_path_factory.mktemp("state"))
    with listening(create_app(settings)) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="session")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph on disk."""
    path = tmp_path_factory.mktemp("photographs") / "a 'street'.png"
    path.write_bytes(encoded(picture=photo(128, 256)))
    return path


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab of its own. Whatever leaves this machine, is missing, or goes wrong in it fails the test."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, permissions=["clipboard-read", "clipboard-write", "camera"]
    )
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on(
        "request", lambda asked: wrong.append(asked.url) if not asked.url.startswith(("http://127.0.0.1:", "blob:")) else None
    )
    page.on("console", lambda told: wrong.append(told.text) if "Content Security Policy" in told.text else None)
    page.on(
        "response", lambda reply: wrong.append(reply.url) if reply.status == 404 and reply.request.method == "GET" else None
    )
    expect.set_options(timeout=15_000)
    page.set_default_timeout(15_000)
    yield page
    context.close()
    assert wrong == []
