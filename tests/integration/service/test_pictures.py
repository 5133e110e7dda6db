"""Pictures of every kind through the service: the right pixels, upright, and nothing of what else the file holds."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from core.data.labels import CITYSCAPES
from core.images.encode import overlay
from core.inference.segmenter import Segmenter
from service.api.problems import CODES
from service.app import create_app
from service.settings import load_settings
from tests.integration.service.conftest import wait_until_ready
from tests.support.sample_images import (
    BROKEN,
    VALID,
    encoded,
    header,
    photo,
    pillows,
    png_of,
    secret_exif,
    secret_png,
    turned,
    two_pictures,
    zipped,
)

PHOTO = Image.fromarray(photo())
SIXTEEN = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
ROWS = b"".join(b"\0" + row.tobytes() for row in photo())
FORMATS = {"PNG": {}, "JPEG": {"quality": 95}, "WEBP": {"lossless": True}}
KINDS: dict[str, bytes] = {
    **{f"png, {mode}": encoded(picture=PHOTO.convert(mode)) for mode in ("1", "L", "LA", "P", "RGBA")},
    "png, 16 bits of grey": encoded(picture=Image.fromarray(SIXTEEN)),
    "png, a colour transparent": encoded(picture=PHOTO.convert("P"), transparency=3),
    "png, more pixels than told": png_of([header(60, 40), (b"IDAT", zlib.compress(ROWS + b"more" * 99)), (b"IEND", b"")]),
    "webp, alpha": encoded("WEBP", PHOTO.convert("RGBA"), lossless=True),
    "webp, lossy": encoded("WEBP"),
    "jpeg, grey": encoded("JPEG", PHOTO.convert("L")),
    "jpeg, cmyk": encoded("JPEG", PHOTO.convert("CMYK"), quality=95),
    "jpeg, progressive": encoded("JPEG", progressive=True),
    "jpeg, every colour": encoded("JPEG", subsampling=0),
    "jpeg, of a phone": two_pictures(),
    **{f"{kind}, one pixel": encoded(kind, PHOTO.resize((1, 1)), **options) for kind, options in FORMATS.items()},
}
SECRETS = {
    "png": secret_png(),
    "jpeg": encoded("JPEG", exif=secret_exif(), comment=b"a secret", icc_profile=b"a secret" * 20),
    "webp": encoded("WEBP", exif=secret_exif(), xmp=b"a secret", icc_profile=b"a secret" * 20),
    "jpeg and zip": encoded("JPEG") + zipped(),
    "png and html": encoded() + b"<html><script>a secret</script></html>",
    "png and zip": encoded() + zipped(),
    "webp and html": encoded("WEBP") + b"<html><script>a secret</script></html>",
}


@pytest.fixture(scope="module")
def client(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    settings = load_settings(checkpoints=[checkpoint], state=tmp_path_factory.mktemp("state"), allowed_hosts=["testserver"])
    with TestClient(create_app(settings)) as client:
        yield wait_until_ready(client)


@pytest.fixture(scope="module")
def segmenter(checkpoint: Path) -> Segmenter:
    return Segmenter(checkpoint)


def assert_right(client: TestClient, segmenter: Segmenter, data: bytes) -> None:
    """The reply's overlay is Pillow's picture under the colours of its mask, which is the segmenter's of that picture."""
    reply = client.post("/segment?output=overlay&format=png", content=data)
    assert reply.status_code == 200, reply.text
    served = np.asarray(Image.open(io.BytesIO(reply.content))).astype(int)
    mask = np.asarray(Image.open(io.BytesIO(client.post("/segment", content=data).content)))
    rgb = pillows(data)
    exact = not data.startswith(b"\xff\xd8")  # decoders of JPEG round differently
    assert mask.shape == rgb.shape[:2] and (mask == segmenter(rgb).labels).mean() >= (1 if exact else 0.98)
    assert np.abs(served - overlay(rgb, mask, CITYSCAPES)).max() <= (0 if exact else 2)


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_a_valid_png_of_the_suite_gives_the_right_picture(client: TestClient, segmenter: Segmenter, path: Path) -> None:
    assert_right(client, segmenter, path.read_bytes())


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_a_broken_png_of_the_suite_is_refused(client: TestClient, path: Path) -> None:
    reply = client.post("/segment", content=path.read_bytes())
    assert (reply.status_code, reply.json()["code"]) == (CODES[BROKEN[path]], BROKEN[path])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_gives_the_right_one(client: TestClient, segmenter: Segmenter, kind: str) -> None:
    assert_right(client, segmenter, KINDS[kind])


@pytest.mark.parametrize("orientation", [*range(1, 9), 99])
@pytest.mark.parametrize("format", FORMATS)
def test_a_turned_photograph_gives_an_upright_mask(
    client: TestClient, segmenter: Segmenter, format: str, orientation: int
) -> None:
    data = turned(orientation, format, **FORMATS[format])
    assert pillows(data).shape == ((60, 40, 3) if 5 <= orientation <= 8 else (40, 60, 3))
    assert_right(client, segmenter, data)


@pytest.mark.parametrize("kind", SECRETS)
def test_nothing_that_a_file_holds_besides_its_picture_goes_out(client: TestClient, kind: str) -> None:
    data = SECRETS[kind]
    assert b"a secret" in data
    for output in ("mask", "labels", "overlay", "overlay&format=png", "json"):
        reply = client.post(f"/segment?output={output}", content=data)
        assert reply.status_code == 200
        assert not any(word in reply.content for word in (b"secret", b"script", b"PK\x03\x04", b"Exif", b"ICC_PROFILE"))
        if reply.headers["content-type"].startswith("image/"):
            assert not Image.open(io.BytesIO(reply.content)).info.keys() - {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
