"""The page where a model is changed on the server, and where models have other classes than each other."""

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
from tests.conftest import make_checkpoint
from tests.e2e.browser.test_segment_page import done, given, labels_of, painted
from tests.integration.service.conftest import listening

OTHERS = LabelSpace(
    name="others", names=("tram", "road", "lorry"), ids=(0, 1, 2), colours=((250, 0, 0), (0, 250, 0), (0, 0, 250))
)
Serve = Callable[..., str]


@pytest.fixture
def served(models: Path, tmp_path: Path) -> Iterator[str]:
    """A service with two models of its own: ddunet, and one of other classes."""
    folder = tmp_path / "own"
    folder.mkdir()
    shutil.copy(models / "ddunet.safetensors", folder)
    make_checkpoint(folder / "others.safetensors", "r2unet", labels=OTHERS, seed=6)  # of which it sees two in `street`
    with listening(create_app(load_settings(checkpoints=[folder], state=tmp_path / "state"))) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture
def asked(page: Page) -> list[str]:
    """What the page asks for from now on, as METHOD /path."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(f"{request.method} {request.url.split('/')[-1].partition('?')[0]}"))
    return asked


def test_a_model_whose_new_file_can_t_be_used_goes_on_and_is_offered(
    page: Page, served: str, street: Path, tmp_path: Path
) -> None:
    (tmp_path / "own/ddunet.safetensors").write_bytes(b"damaged")
    assert httpx.post(f"{served}models/ddunet/reload").status_code == 503
    given(page, served, street)
    told = page.locator(".model").filter(has=page.locator("input[value=ddunet]"))
    expect(told).to_contain_text("the file can't be used: ")
    expect(told).to_contain_text("; the one loaded before goes on")
    page.locator("#to-evaluation").click()
    expect(page.locator("#start-model option")).to_have_text(["ddunet", "others"])


def test_a_mask_of_a_changed_model_is_named_by_its_new_classes(
    page: Page, served: str, street: Path, tmp_path: Path, asked: list[str]
) -> None:
    given(page, served, street)
    make_checkpoint(tmp_path / "own/ddunet.safetensors", labels=OTHERS)
    assert httpx.post(f"{served}models/ddunet/reload").json()["error"] is None
    page.set_input_files("#files", street)
    done(page, 2)
    names = page.locator("#legend .class > span:nth-child(2)")
    assert names.count() and set(names.all_inner_texts()) <= set(OTHERS.names)
    page.locator(".strip button").first.click()
    expect(page.locator("canvas.mask")).to_be_visible()
    assert set(names.all_inner_texts()) <= set(OTHERS.names)
    assert (asked.count("POST segment"), asked.count("GET models")) == (3, 2)  # the first photograph anew, the second not


@pytest.mark.parametrize(
    ("digest", "requests"),
    [
        pytest.param(lambda n, real: real if n else None, (1, 2), id="not read yet"),
        pytest.param(lambda n, real: None, (1, 2), id="never told"),
        pytest.param(lambda n, real: "0" * 64, (1, 2), id="another replica's"),
        pytest.param(lambda n, real: f"{n:064}", (2, 2), id="another one each time"),
    ],
)
def test_a_digest_that_is_not_the_known_one_is_asked_for_once(
    page: Page, served: str, street: Path, asked: list[str], digest: Callable[[int, str], str], requests: tuple[int, int]
) -> None:
    number = count()

    def told(route: Route) -> None:
        reply, n = route.fetch(), next(number)
        content = reply.json()
        for model in content["models"]:
            model["digest"] = digest(n, model["digest"])
        route.fulfill(response=reply, json=content)

    page.route("**/models", told)
    given(page, served, street)
    page.wait_for_timeout(200)
    assert (asked.count("POST segment"), asked.count("GET models")) == requests
    expect(page.locator("canvas.mask")).to_be_visible()


def test_the_legend_holds_the_classes_of_every_model_with_their_shares(
    page: Page, served: str, street: Path, tmp_path: Path
) -> None:
    given(page, served, street)
    page.locator("input[value=others]").check()
    expect(page.locator("figure canvas.mask:visible")).to_have_count(2)
    expect(page.locator("#shares-of")).to_have_text("Shares by ddunet, others")
    both = [Segmenter(tmp_path / f"own/{name}.safetensors") for name in ("ddunet", "others")]
    masks = [labels_of(each, street) for each in both]
    expected = {}
    for name in dict.fromkeys(both[0].labels.names + both[1].labels.names):
        shares = [share_of(each.labels, mask, name) for each, mask in zip(both, masks, strict=True)]
        if any(shares):
            expected[name] = ["–" if share is None else f"{100 * share:.1f}%" for share in shares]
    assert expected["tram"][0] == "–" and "–" not in expected["road"]
    rows = [row.locator("span").all_inner_texts() for row in page.locator("#legend .class").all()]
    assert {name: shares for name, _, *shares in rows} == expected

    page.locator("#legend .class").filter(has_text="tram").click()
    hidden = painted(page.locator("canvas.mask").nth(1))[..., 3] == 0
    assert np.array_equal(hidden, masks[1] == OTHERS.names.index("tram"))


def share_of(labels: LabelSpace, mask: np.ndarray, name: str) -> float | None:
    """Of a class in a mask, None where the model does not know it."""
    return float((mask == labels.names.index(name)).mean()) if name in labels.names else None
