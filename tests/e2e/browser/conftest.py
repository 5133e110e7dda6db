"""A service inside the test process with three models and data, and a browser tab that checks what the page does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from core.inference.segmenter import Segmenter
from service.app import create_app
from service.settings import load_settings
from tests.support.browser import chromium
from tests.support.checkpoints import make_checkpoint
from tests.support.live_server import live_server
from tests.support.sample_images import encode_image, sample_image

MODEL_NAMES = ("ddunet", "r2unet", "unet")
TIMEOUT_MS = 15_000


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(MODEL_NAMES):
        make_checkpoint(directory / f"{name}.safetensors", name, seed=seed)
    return directory


@pytest.fixture(scope="session")
def segmenters(models: Path) -> dict[str, Segmenter]:
    return {name: Segmenter(models / f"{name}.safetensors") for name in MODEL_NAMES}


@pytest.fixture(scope="session")
def url(models: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = load_settings(checkpoints=[models], model="ddunet", data=scenes, state=tmp_path_factory.mktemp("state"))
    with live_server(create_app(settings)) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="session")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image file with quotes and a space in its name."""
    path = tmp_path_factory.mktemp("images") / "a 'street'.png"
    path.write_bytes(encode_image(image=sample_image(128, 256)))
    return path


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A new tab. Uncaught errors, requests to other hosts, CSP violations and missing files fail the test."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, permissions=["clipboard-read", "clipboard-write", "camera"]
    )
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(f"uncaught error: {error}"))
    page.on(
        "request",
        lambda request: None if request.url.startswith(("http://127.0.0.1:", "blob:")) else problems.append(request.url),
    )
    page.on("console", lambda message: problems.append(message.text) if "Content Security Policy" in message.text else None)
    page.on(
        "response",
        lambda response: problems.append(response.url) if response.status == 404 and response.request.method == "GET" else None,
    )
    expect.set_options(timeout=TIMEOUT_MS)
    page.set_default_timeout(TIMEOUT_MS)
    yield page
    context.close()
    assert problems == []
