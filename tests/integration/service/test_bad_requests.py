"""A catalog of bad requests: each gets its documented status and code, and the next valid request succeeds."""

from __future__ import annotations

import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.api.problems import STATUS_BY_CODE
from service.app import create_app
from service.settings import load_settings
from tests.support.image_fuzzer import mutate_image
from tests.support.live_server import live_server
from tests.support.sample_images import (
    PNG_SIGNATURE,
    animated_image,
    build_png,
    decompression_bomb,
    encode_image,
    huge_jpeg,
    huge_png,
    ihdr,
    jpeg_with_scans,
    png_chunks,
    png_with_bad_crc,
)

PNG, JPEG, WEBP = encode_image(), encode_image("JPEG"), encode_image("WEBP")
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def form_part(extra_headers: bytes = b"") -> bytes:
    """Return a part of a form with the boundary `x` that contains a valid image."""
    disposition = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n'
    return disposition + extra_headers + b"\r\n" + PNG + b"\r\n"


def zero_chunks(size: int) -> Iterator[bytes]:
    for _ in range(0, size, 1 << 20):
        yield bytes(1 << 20)


OTHER_FORMATS = {
    "text": b"hello",
    "one byte": b"\x89",
    "html": b"<html><img src=x></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "pdf": b"%PDF-1.7\n",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "zip": b"PK\x03\x04" + bytes(40),
    "gif": encode_image("GIF"),
    "animated gif": animated_image("GIF"),
    "tiff": encode_image("TIFF"),
    "big-endian tiff": b"MM\0*" + bytes(40),
    "bmp": encode_image("BMP"),
    "jpeg 2000": encode_image("JPEG2000"),
    "heic": b"\0\0\0\x18ftypheic" + bytes(40),
    "avif": b"\0\0\0\x18ftypavif" + bytes(40),
    "mp4": b"\0\0\0\x18ftypmp42" + bytes(40),
    "mkv": b"\x1a\x45\xdf\xa3" + bytes(40),
    "ppm": encode_image("PPM"),
    "icon": encode_image("ICO"),
    "pickle": b"\x80\x04\x95" + bytes(40),
    "wav": b"RIFF\x24\0\0\0WAVEfmt ",
    "signature with one wrong bit": b"\x09" + PNG[1:],
    "utf-16": "PNG".encode("utf-16"),
}
CORRUPT_IMAGES = {
    "png: signature only": PNG_SIGNATURE,
    "png: half": PNG[: len(PNG) // 2],
    "png: no end": build_png(png_chunks(PNG)[:-1]),
    "png: no pixels": build_png([chunk for chunk in png_chunks(PNG) if chunk[0] != b"IDAT"]),
    "png: wrong crc of the header": png_with_bad_crc(b"IHDR"),
    "png: wrong crc of the pixels": png_with_bad_crc(b"IDAT"),
    "png: 0x0": huge_png(0, 0),
    "png: 0x5": huge_png(0, 5),
    "png: color type 1": build_png([ihdr(60, 40, 8, 1), *png_chunks(PNG)[1:]]),
    "png: bit depth 3": build_png([ihdr(60, 40, 3), *png_chunks(PNG)[1:]]),
    "png: zTXt bomb": decompression_bomb(b"zTXt"),
    "png: iTXt bomb": decompression_bomb(b"iTXt"),
    "png: iCCP bomb": decompression_bomb(b"iCCP"),
    "png: fewer pixels than in the header": huge_png(100, 100),
    "png: invalid deflate data": build_png([ihdr(60, 40), (b"IDAT", b"garbage"), (b"IEND", b"")]),
    "jpeg: signature only": b"\xff\xd8\xff",
    "jpeg: half": JPEG[: len(JPEG) // 2],
    "jpeg: no end": JPEG[:-2],
    "jpeg: 101 scans": jpeg_with_scans(101),
    "jpeg: header only": JPEG[: JPEG.index(b"\xff\xda")],
    "jpeg: 0x0": huge_jpeg(0, 0),
    "webp: signature only": b"RIFF\x24\0\0\0WEBP",
    "webp: half": WEBP[: len(WEBP) // 2],
    "webp: length of 4 GB": b"RIFF\xff\xff\xff\xffWEBP" + bytes(30),
}
HUGE_IMAGES = {
    "png of 30000x30000": huge_png(30_000, 30_000),
    "png of 13000x13000": huge_png(13_000, 13_000),
    "png of 1x65535": huge_png(1, 65_535),
    "png of 100000x1": huge_png(100_000, 1),
    "png of 2147483647x2147483647": huge_png(2**31 - 1, 2**31 - 1),
    "jpeg of 65500x65500": huge_jpeg(65_500, 65_500),
    "jpeg of 16385x1": huge_jpeg(16_385, 1),
}
UNKNOWN_MODELS = [
    "../random",
    "%2e%2e%2frandom",
    "/etc/passwd",
    "random\0",
    "http://localhost/random",
    "x" * 300,
    "RANDOM",
    "random.safetensors",
    "random ",
]
CASES: dict[str, tuple[dict, str]] = {
    **{f"{name} as body": ({"content": data}, "unsupported_image_format") for name, data in OTHER_FORMATS.items()},
    **{
        f"{name} in form": ({"files": {"file": ("a.png", data, "image/png")}}, "unsupported_image_format")
        for name, data in OTHER_FORMATS.items()
    },
    **{name: ({"content": data}, "corrupt_image") for name, data in CORRUPT_IMAGES.items()},
    **{name: ({"content": data}, "too_large") for name, data in HUGE_IMAGES.items()},
    **{f"model {name[:30]!r}": ({"content": PNG, "params": {"model": name}}, "unknown_model") for name in UNKNOWN_MODELS},
    "animated png": ({"content": animated_image("PNG")}, "animated_image"),
    "animated webp": ({"content": animated_image("WEBP")}, "animated_image"),
    "no body": ({"content": b""}, "no_file"),
    "no part named file": ({"files": {"picture": PNG}, "data": {"other": "1"}}, "no_file"),
    "file as text field": ({"files": {"file": (None, "text")}}, "no_file"),
    "empty file": ({"files": {"file": b""}}, "empty_file"),
    "17 files": ({"files": [("file", PNG)] * 17}, "too_many_files"),
    "two files in parts of different names": ({"files": [("file", PNG), ("mask", PNG)]}, "too_many_files"),
    "damaged file after a valid one": ({"files": [("file", PNG), ("file", PNG[:60])]}, "corrupt_image"),
    "empty file after a valid one": ({"files": [("file", PNG), ("file", b"")]}, "empty_file"),
    "form without boundary": ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, "malformed_body"),
    "boundary of 10 KB": (
        {"content": b"x", "headers": {"Content-Type": f"multipart/form-data; boundary={'x' * 10_000}"}},
        "malformed_body",
    ),
    "boundary of 10 KB in 20 MB of partial boundaries": (
        {"content": b"-" * 20_000_000, "headers": {"Content-Type": f"multipart/form-data; boundary=x{'-' * 10_000}"}},
        "malformed_body",
    ),
    "form truncated in part header": ({"content": b"--x\r\nContent-Disp", "headers": FORM}, "malformed_body"),
    "form truncated after part": ({"content": form_part(), "headers": FORM}, "malformed_body"),
    "form without parts": ({"content": b"garbage\r\n--x--\r\n", "headers": FORM}, "malformed_body"),
    "1,001 parts": ({"content": form_part() * 1001 + b"--x--\r\n", "headers": FORM}, "too_many_files"),
    "20,000 part headers": ({"content": form_part(b"A: b\r\n" * 20_000) + b"--x--\r\n", "headers": FORM}, "malformed_body"),
    "part header of 100 KB": (
        {"content": form_part(b"A: " + b"b" * 100_000 + b"\r\n") + b"--x--\r\n", "headers": FORM},
        "malformed_body",
    ),
    "part header without colon": ({"content": form_part(b"nothing\r\n") + b"--x--\r\n", "headers": FORM}, "malformed_body"),
    "20 MB of preamble": ({"content": bytes(20_000_001) + form_part() + b"--x--\r\n", "headers": FORM}, "too_large"),
    "json": ({"json": {"file": "x"}}, "unsupported_media_type"),
    "urlencoded": ({"data": {"file": "x"}}, "unsupported_media_type"),
    "text type": ({"content": PNG, "headers": {"Content-Type": "text/plain"}}, "unsupported_media_type"),
    "video type": ({"content": PNG, "headers": {"Content-Type": "video/mp4"}}, "unsupported_media_type"),
    "gzip": ({"content": zlib.compress(PNG), "headers": {"Content-Encoding": "gzip"}}, "content_encoding"),
    "unknown encoding": ({"content": PNG, "headers": {"Content-Encoding": "custom"}}, "content_encoding"),
    "one byte too many": ({"content": bytes(20_000_001)}, "too_large"),
    "too many bytes in chunks": ({"content": zero_chunks(21 << 20)}, "too_large"),
    "one byte too many in form": ({"files": {"file": bytes(20_000_001)}}, "too_large"),
    "200 MB": ({"content": bytes(200_000_000)}, "too_large"),
    "200 MB in chunks": ({"content": zero_chunks(200_000_000)}, "too_large"),
    "unknown output": ({"content": PNG, "params": {"output": "song"}}, "invalid_parameter"),
    "unknown format": ({"content": PNG, "params": {"output": "overlay", "format": "bmp"}}, "invalid_parameter"),
    "unknown resolution": ({"content": PNG, "params": {"resolution": "8k"}}, "invalid_parameter"),
    "flip that is not a boolean": ({"content": PNG, "params": {"flip": "perhaps"}}, "invalid_parameter"),
    "wrong method": ({"method": "PUT", "content": PNG}, "method_not_allowed"),
    "wrong path": ({"url": "/segments", "content": PNG}, "not_found"),
    "two slashes": ({"url": "//segment", "content": PNG}, "not_found"),
    "path traversal": ({"url": "/../../etc/passwd", "content": PNG}, "not_found"),
}
TESTED_ELSEWHERE = {
    *("bad_request", "request_timeout"),  # test_http_connections.py
    *("invalid_host", "unauthorized", "cross_origin_denied", "insufficient_scope"),  # test_access_control.py
    *("unknown_evaluation", "unknown_split", "evaluation_cancelled", "evaluation_finished", "evaluation_running"),
    *("label_space_mismatch", "dataset_unavailable"),
    *("not_comparable", "unknown_example"),  # test_evaluations.py, as the last eight
}


@pytest.fixture(scope="module")
def url(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("models")
    (directory / "random.safetensors").write_bytes(checkpoint.read_bytes())
    app = create_app(load_settings(checkpoints=[directory], state=tmp_path_factory.mktemp("state"), model="random"))
    with pytest.MonkeyPatch.context() as patch, live_server(app) as port:
        # A private directory for temporary files, so that the tests can check that the service leaves none.
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("tmp")))
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("case", CASES)
def test_bad_request_returns_documented_error(url: str, case: str) -> None:
    request, code = CASES[case]
    files_before = sorted(Path(tempfile.gettempdir()).iterdir())
    with httpx.Client(timeout=60) as client:
        response = client.request(**{"method": "POST", **request, "url": url + request.get("url", "/segment")})
        problem = response.json()
        assert (response.status_code, problem["code"]) == (STATUS_BY_CODE[code], code), problem
        assert response.headers["content-type"] == "application/problem+json"
        assert set(problem) == {"type", "title", "status", "detail", "code", "request_id"}
        assert problem["status"] == response.status_code and problem["request_id"] == response.headers["x-request-id"]
        assert client.post(f"{url}/segment", content=PNG).status_code == 200
    assert sorted(Path(tempfile.gettempdir()).iterdir()) == files_before


@pytest.mark.parametrize("request_", [{"content": OTHER_FORMATS["mp4"]}, CASES["video type"][0]], ids=["content", "type"])
def test_video_error_names_command_that_segments_videos(url: str, request_: dict) -> None:
    detail = httpx.post(f"{url}/segment", **request_).json()["detail"]
    assert "a video" in detail and "image" in detail and "`python -m training predict MODEL VIDEO`" in detail


def test_put_error_suggests_post(url: str) -> None:
    detail = httpx.put(f"{url}/segment", content=PNG).json()["detail"]
    assert detail == "this path supports POST; `curl -T` sends PUT, add `-X POST`"


def test_catalog_covers_every_client_error() -> None:
    client_errors = {code for code, status in STATUS_BY_CODE.items() if 400 <= status < 500}
    assert {code for _, code in CASES.values()} == client_errors - TESTED_ELSEWHERE


def test_mutated_images_return_documented_errors(url: str) -> None:
    rng = np.random.default_rng(1)
    codes: Counter[str] = Counter()
    with httpx.Client(timeout=60) as client:
        for number in range(500):
            data = mutate_image(rng)
            body = {"files": {"file": data}} if number % 2 else {"content": data}
            response = client.post(f"{url}/segment", **body)
            codes["ok" if response.status_code == 200 else response.json()["code"]] += 1
        assert client.post(f"{url}/segment", content=PNG).status_code == 200
    allowed = {"ok", "unsupported_image_format", "corrupt_image", "too_large", "animated_image", "no_file", "empty_file"}
    assert set(codes) <= allowed and codes["ok"] and codes["corrupt_image"]
