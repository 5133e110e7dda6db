"""Image files of every kind: the service decodes the right pixels, upright, and returns none of their metadata."""

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
from service.api.problems import STATUS_BY_CODE
from service.app import create_app
from service.settings import load_settings
from tests.support.live_server import wait_until_ready
from tests.support.sample_images import (
    BROKEN_PNGS,
    VALID_PNGS,
    build_png,
    decode_mask,
    decode_with_pillow,
    encode_image,
    ihdr,
    multi_picture_jpeg,
    rotated_image,
    sample_image,
    secret_exif,
    secret_png,
    zip_archive,
)

RGB_IMAGE = Image.fromarray(sample_image())
GRAY_16_BIT = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
PNG_ROWS = b"".join(b"\0" + row.tobytes() for row in sample_image())
OPTIONS_BY_FORMAT = {"PNG": {}, "JPEG": {"quality": 95}, "WEBP": {"lossless": True}}
VALID_IMAGES: dict[str, bytes] = {
    **{f"png, {mode}": encode_image(image=RGB_IMAGE.convert(mode)) for mode in ("1", "L", "LA", "P", "RGBA")},
    "png, 16-bit gray": encode_image(image=Image.fromarray(GRAY_16_BIT)),
    "png, transparent color": encode_image(image=RGB_IMAGE.convert("P"), transparency=3),
    "png, more pixels than in the header": build_png(
        [ihdr(60, 40), (b"IDAT", zlib.compress(PNG_ROWS + b"more" * 99)), (b"IEND", b"")]
    ),
    "webp, alpha": encode_image("WEBP", RGB_IMAGE.convert("RGBA"), lossless=True),
    "webp, lossy": encode_image("WEBP"),
    "jpeg, gray": encode_image("JPEG", RGB_IMAGE.convert("L")),
    "jpeg, cmyk": encode_image("JPEG", RGB_IMAGE.convert("CMYK"), quality=95),
    "jpeg, progressive": encode_image("JPEG", progressive=True),
    "jpeg, no chroma subsampling": encode_image("JPEG", subsampling=0),
    "jpeg, multi-picture": multi_picture_jpeg(),
    **{
        f"{format}, one pixel": encode_image(format, RGB_IMAGE.resize((1, 1)), **options)
        for format, options in OPTIONS_BY_FORMAT.items()
    },
}
IMAGES_WITH_SECRET = {
    "png": secret_png(),
    "jpeg": encode_image("JPEG", exif=secret_exif(), comment=b"a secret", icc_profile=b"a secret" * 20),
    "webp": encode_image("WEBP", exif=secret_exif(), xmp=b"a secret", icc_profile=b"a secret" * 20),
    "jpeg and zip": encode_image("JPEG") + zip_archive(),
    "png and html": encode_image() + b"<html><script>a secret</script></html>",
    "png and zip": encode_image() + zip_archive(),
    "webp and html": encode_image("WEBP") + b"<html><script>a secret</script></html>",
}


@pytest.fixture(scope="module")
def client(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    settings = load_settings(checkpoints=[checkpoint], state=tmp_path_factory.mktemp("state"), allowed_hosts=["testserver"])
    with TestClient(create_app(settings)) as client:
        yield wait_until_ready(client)


@pytest.fixture(scope="module")
def segmenter(checkpoint: Path) -> Segmenter:
    return Segmenter(checkpoint)


def assert_correct_mask(client: TestClient, segmenter: Segmenter, data: bytes) -> None:
    """Check the mask and the overlay of an image file against the segmenter's mask of the image as Pillow decodes it."""
    response = client.post("/segment?output=overlay&format=png", content=data)
    assert response.status_code == 200, response.text
    served_overlay = np.asarray(Image.open(io.BytesIO(response.content))).astype(int)
    mask = decode_mask(client.post("/segment", content=data).content)
    rgb = decode_with_pillow(data)
    is_jpeg = data.startswith(b"\xff\xd8")  # JPEG decoders round differently.
    assert mask.shape == rgb.shape[:2] and (mask == segmenter(rgb).labels).mean() >= (0.98 if is_jpeg else 1)
    assert np.abs(served_overlay - overlay(rgb, mask, CITYSCAPES)).max() <= (2 if is_jpeg else 0)


@pytest.mark.parametrize("path", VALID_PNGS, ids=lambda path: path.stem)
def test_valid_png_of_pngsuite_is_segmented(client: TestClient, segmenter: Segmenter, path: Path) -> None:
    assert_correct_mask(client, segmenter, path.read_bytes())


@pytest.mark.parametrize("path", BROKEN_PNGS, ids=lambda path: path.stem)
def test_broken_png_of_pngsuite_is_rejected(client: TestClient, path: Path) -> None:
    response = client.post("/segment", content=path.read_bytes())
    assert (response.status_code, response.json()["code"]) == (STATUS_BY_CODE[BROKEN_PNGS[path]], BROKEN_PNGS[path])


@pytest.mark.parametrize("name", VALID_IMAGES)
def test_image_of_every_kind_is_segmented(client: TestClient, segmenter: Segmenter, name: str) -> None:
    assert_correct_mask(client, segmenter, VALID_IMAGES[name])


@pytest.mark.parametrize("orientation", [*range(1, 9), 99])
@pytest.mark.parametrize("format", OPTIONS_BY_FORMAT)
def test_exif_orientation_gives_upright_mask(client: TestClient, segmenter: Segmenter, format: str, orientation: int) -> None:
    data = rotated_image(orientation, format, **OPTIONS_BY_FORMAT[format])
    assert decode_with_pillow(data).shape == ((60, 40, 3) if 5 <= orientation <= 8 else (40, 60, 3))
    assert_correct_mask(client, segmenter, data)


@pytest.mark.parametrize("name", IMAGES_WITH_SECRET)
def test_response_contains_no_metadata_of_image(client: TestClient, name: str) -> None:
    data = IMAGES_WITH_SECRET[name]
    assert b"a secret" in data
    for output in ("mask", "labels", "overlay", "overlay&format=png", "json"):
        response = client.post(f"/segment?output={output}", content=data)
        assert response.status_code == 200
        assert not any(word in response.content for word in (b"secret", b"script", b"PK\x03\x04", b"Exif", b"ICC_PROFILE"))
        if response.headers["content-type"].startswith("image/"):
            info = Image.open(io.BytesIO(response.content)).info
            assert not info.keys() - {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
