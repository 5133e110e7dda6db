"""The page when a model changes on the server, when models have different classes, and how models are selected."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, Route, expect

from core.data.labels import LabelSpace
from core.inference.segmenter import Segmenter
from service.app import create_app
from service.settings import load_settings
from tests.support.browser import canvas_pixels, open_with_images, predict_labels, show_setup, wait_for_masks
from tests.support.checkpoints import make_checkpoint
from tests.support.live_server import live_server

OTHER_CLASSES = LabelSpace(
    name="others", names=("tram", "road", "lorry"), ids=(0, 1, 2), colors=((250, 0, 0), (0, 250, 0), (0, 0, 250))
)


@pytest.fixture
def mixed_url(models: Path, tmp_path: Path) -> Iterator[str]:
    """A service with the models `ddunet` and `others`, which has other classes."""
    directory = tmp_path / "models"
    directory.mkdir()
    shutil.copy(models / "ddunet.safetensors", directory)
    # With this seed the model predicts two of its classes in `street`.
    make_checkpoint(directory / "others.safetensors", "r2unet", labels=OTHER_CLASSES, seed=6)
    with live_server(create_app(load_settings(checkpoints=[directory], state=tmp_path / "state"))) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture
def requests(page: Page) -> list[str]:
    """The requests of the page, as "METHOD path"."""
    requests: list[str] = []
    page.on("request", lambda request: requests.append(f"{request.method} {request.url.split('/')[-1].partition('?')[0]}"))
    return requests


def test_model_with_damaged_new_file_stays_available(page: Page, mixed_url: str, street: Path, tmp_path: Path) -> None:
    (tmp_path / "models/ddunet.safetensors").write_bytes(b"damaged")
    assert httpx.post(f"{mixed_url}models/ddunet/reload").status_code == 503
    open_with_images(page, mixed_url, street)
    option = page.locator(".model").filter(has=page.locator("input[value=ddunet]"))
    expect(option).to_contain_text("The new file cannot be loaded (")
    expect(option).to_contain_text("The model loaded before stays in use.")
    page.locator("#nav-evaluation").click()
    expect(page.locator("#evaluation-model option")).to_have_text(["ddunet", "others"])


def test_mask_of_changed_model_shows_new_classes(
    page: Page, mixed_url: str, street: Path, tmp_path: Path, requests: list[str]
) -> None:
    open_with_images(page, mixed_url, street)
    make_checkpoint(tmp_path / "models/ddunet.safetensors", labels=OTHER_CLASSES)
    assert httpx.post(f"{mixed_url}models/ddunet/reload").json()["error"] is None
    page.set_input_files("#files", street)
    wait_for_masks(page, 2)
    names = page.locator("#legend .name")
    assert names.count() and set(names.all_inner_texts()) <= set(OTHER_CLASSES.names)
    page.locator("#thumbnails button").first.click()
    expect(page.locator("canvas.mask")).to_be_visible()
    assert set(names.all_inner_texts()) <= set(OTHER_CLASSES.names)
    # The first image is segmented again by the new model, the second one only once.
    assert (requests.count("POST segment"), requests.count("GET models")) == (3, 2)


@pytest.mark.parametrize(
    ("listed_digest", "expected_requests"),
    [
        pytest.param(lambda n, digest: digest if n else None, (1, 2), id="not yet known"),
        pytest.param(lambda n, digest: None, (1, 2), id="never known"),
        pytest.param(lambda n, digest: "0" * 64, (1, 2), id="from another replica"),
        pytest.param(lambda n, digest: f"{n:064}", (2, 2), id="different each time"),
    ],
)
def test_models_are_reloaded_once_if_digest_differs(
    page: Page,
    mixed_url: str,
    street: Path,
    requests: list[str],
    listed_digest: Callable[[int, str], str | None],
    expected_requests: tuple[int, int],
) -> None:
    responses = count()

    def replace_digests(route: Route) -> None:
        response, n = route.fetch(), next(responses)
        content = response.json()
        for model in content["models"]:
            model["digest"] = listed_digest(n, model["digest"])
        route.fulfill(response=response, json=content)

    page.route("**/models", replace_digests)
    open_with_images(page, mixed_url, street)
    page.wait_for_timeout(200)  # for requests that should not follow
    assert (requests.count("POST segment"), requests.count("GET models")) == expected_requests
    expect(page.locator("canvas.mask")).to_be_visible()


def test_legend_merges_classes_of_all_models(page: Page, mixed_url: str, street: Path, tmp_path: Path) -> None:
    open_with_images(page, mixed_url, street)
    show_setup(page)
    page.locator("input[value=others]").check()
    expect(page.locator("figure canvas.mask:visible")).to_have_count(2)
    expect(page.locator("#legend-columns")).to_have_text("Percentage of pixels: ddunet, others")
    segmenters = [Segmenter(tmp_path / f"models/{name}.safetensors") for name in ("ddunet", "others")]
    masks = [predict_labels(segmenter, street) for segmenter in segmenters]
    expected = {}
    for name in dict.fromkeys(segmenters[0].labels.names + segmenters[1].labels.names):
        fractions = [class_fraction(model.labels, mask, name) for model, mask in zip(segmenters, masks, strict=True)]
        if any(fractions):
            expected[name] = [format_percent(fraction) for fraction in fractions]
    assert expected["tram"][0] == "–" and "–" not in expected["road"]
    rows = [row.locator("span").all_inner_texts() for row in page.locator("#legend .class").all()]
    assert {name: fractions for name, *fractions in rows} == expected

    page.locator("#legend .class").filter(has_text="tram").click()
    transparent = canvas_pixels(page.locator("canvas.mask").nth(1))[..., 3] == 0
    assert np.array_equal(transparent, masks[1] == OTHER_CLASSES.names.index("tram"))


def test_legend_columns_line_up(page: Page, mixed_url: str, street: Path) -> None:
    open_with_images(page, mixed_url, street)
    show_setup(page)
    page.locator("input[value=others]").check()
    expect(page.locator("figure canvas.mask:visible")).to_have_count(2)
    offsets = page.locator("#legend li").evaluate_all("""(rows) => rows.map((row) => {
      const right = row.getBoundingClientRect().right;
      return [...row.querySelectorAll(".fraction")].map((cell) => Math.round(right - cell.getBoundingClientRect().right));
    })""")
    assert len(offsets) > 1 and all(row == offsets[0] for row in offsets)


def class_fraction(labels: LabelSpace, mask: np.ndarray, name: str) -> float | None:
    """Return the fraction of a class in a mask, None if the model does not predict it."""
    return float((mask == labels.names.index(name)).mean()) if name in labels.names else None


def format_percent(fraction: float | None) -> str:
    if fraction is None:
        return "–"
    return "<0.1%" if 0 < fraction < 0.0005 else f"{100 * fraction:.1f}%"


def test_last_selected_model_cannot_be_deselected(page: Page, url: str) -> None:
    page.goto(url)
    box = page.locator("input[value=ddunet]")
    box.click()
    expect(box).to_be_checked()
    expect(page.locator("#models .message")).to_have_text("At least one model must stay selected.")


def test_fourth_model_cannot_be_selected(page: Page, url: str) -> None:
    def with_fourth_model(route: Route) -> None:
        response = route.fetch()
        content = response.json()
        content["models"].append(content["models"][0] | {"name": "fourth"})
        route.fulfill(response=response, json=content)

    page.route("**/models", with_fourth_model)
    page.goto(url)
    expect(page.locator("input[value=ddunet]")).to_be_checked()
    fourth, message = page.locator("input[value=fourth]"), page.locator("#models .message")
    for name in ("r2unet", "unet"):
        expect(fourth).to_be_enabled()
        page.locator(f"input[value={name}]").check()
    expect(fourth).to_be_disabled()
    expect(message).to_have_text("3 models are selected. Deselect one to select another.")
    expect(page.locator("#models input:checked")).to_have_count(3)
    page.locator("input[value=unet]").uncheck()
    expect(fourth).to_be_enabled()
    expect(message).to_be_hidden()
