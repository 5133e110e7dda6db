"""The catalogue of bad requests: each gets the documented status and code, and the next good one its mask."""

from __future__ import annotations

import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.api.problems import CODES
from service.app import create_app
from service.settings import load_settings
from tests.integration.service.conftest import listening
from tests.support.image_fuzzer import mutated
from tests.support.sample_images import (
    SIGNATURE,
    animated,
    bomb,
    broken_crc,
    chunks,
    encoded,
    header,
    huge_jpeg,
    huge_png,
    many_scans,
    png_of,
)

PNG, JPEG, WEBP = encoded(), encoded("JPEG"), encoded("WEBP")
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def part(name: str = "file", filename: str | None = "a.png", data: bytes = PNG, more: bytes = b"") -> bytes:
    told = f'; filename="{filename}"' if filename is not None else ""
    return f'--x\r\nContent-Disposition: form-data; name="{name}"{told}\r\n'.encode() + more + b"\r\n" + data + b"\r\n"


def stream(size: int) -> Iterator[bytes]:
    for _ in range(0, size, 1 << 20):
        yield bytes(1 << 20)


OTHERS = {
    "text": b"hello",
    "one byte": b"\x89",
    "html": b"<html><img src=x></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "pdf": b"%PDF-1.7\n",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "zip": b"PK\x03\x04" + bytes(40),
    "gif": encoded("GIF"),
    "animated gif": animated("GIF"),
    "tiff": encoded("TIFF"),
    "tiff of the other order": b"MM\0*" + bytes(40),
    "bmp": encoded("BMP"),
    "jpeg 2000": encoded("JPEG2000"),
    "heic": b"\0\0\0\x18ftypheic" + bytes(40),
    "avif": b"\0\0\0\x18ftypavif" + bytes(40),
    "film": b"\0\0\0\x18ftypmp42" + bytes(40),
    "ppm": encoded("PPM"),
    "icon": encoded("ICO"),
    "pickle": b"\x80\x04\x95" + bytes(40),
    "riff of another kind": b"RIFF\x24\0\0\0WAVEfmt ",
    "the signature one bit off": b"\x09" + PNG[1:],
    "utf-16": "PNG".encode("utf-16"),
}
BROKEN = {
    "png: signature only": SIGNATURE,
    "png: half": PNG[: len(PNG) // 2],
    "png: no end": png_of(chunks(PNG)[:-1]),
    "png: no pixels": png_of([part for part in chunks(PNG) if part[0] != b"IDAT"]),
    "png: crc of the header": broken_crc(b"IHDR"),
    "png: crc of the pixels": broken_crc(b"IDAT"),
    "png: 0x0": huge_png(0, 0),
    "png: 0x5": huge_png(0, 5),
    "png: colour type 1": png_of([header(60, 40, 8, 1), *chunks(PNG)[1:]]),
    "png: depth 3": png_of([header(60, 40, 3), *chunks(PNG)[1:]]),
    "png: zTXt bomb": bomb(b"zTXt"),
    "png: iTXt bomb": bomb(b"iTXt"),
    "png: iCCP bomb": bomb(b"iCCP"),
    "png: fewer pixels than told": huge_png(100, 100),
    "png: pixels that don't inflate": png_of([header(60, 40), (b"IDAT", b"garbage"), (b"IEND", b"")]),
    "jpeg: signature only": b"\xff\xd8\xff",
    "jpeg: half": JPEG[: len(JPEG) // 2],
    "jpeg: no end": JPEG[:-2],
    "jpeg: 101 scans": many_scans(101),
    "jpeg: header only": JPEG[: JPEG.index(b"\xff\xda")],
    "jpeg: 0x0": huge_jpeg(0, 0),
    "webp: signature only": b"RIFF\x24\0\0\0WEBP",
    "webp: half": WEBP[: len(WEBP) // 2],
    "webp: length of 4 GB": b"RIFF\xff\xff\xff\xffWEBP" + bytes(30),
}
HUGE = {
    "png of 30000x30000": huge_png(30_000, 30_000),
    "png of 13000x13000": huge_png(13_000, 13_000),
    "png of 1x65535": huge_png(1, 65_535),
    "png of 100000x1": huge_png(100_000, 1),
    "png of 2 thousand millions a side": huge_png(2**31 - 1, 2**31 - 1),
    "jpeg of 65500x65500": huge_jpeg(65_500, 65_500),
    "jpeg of 16385x1": huge_jpeg(16_385, 1),
}
NAMES = [
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
    **{f"{name}, as the body": ({"content": data}, "not_an_image") for name, data in OTHERS.items()},
    **{
        f"{name}, in a form": ({"files": {"file": ("a.png", data, "image/png")}}, "not_an_image")
        for name, data in OTHERS.items()
    },
    **{name: ({"content": data}, "broken_image") for name, data in BROKEN.items()},
    **{name: ({"content": data}, "too_large") for name, data in HUGE.items()},
    **{f"the model {name[:30]!r}": ({"content": PNG, "params": {"model": name}}, "unknown_model") for name in NAMES},
    "animated png": ({"content": animated("PNG")}, "animated_image"),
    "animated webp": ({"content": animated("WEBP")}, "animated_image"),
    "no body": ({"content": b""}, "no_file"),
    "no part named file": ({"files": {"picture": PNG}, "data": {"other": "1"}}, "no_file"),
    "file as text": ({"files": {"file": (None, "text")}}, "no_file"),
    "an empty file": ({"files": {"file": b""}}, "empty_file"),
    "two files": ({"files": [("file", PNG), ("file", PNG)]}, "too_many_files"),
    "two files of two names": ({"files": [("file", PNG), ("mask", PNG)]}, "too_many_files"),
    "a form without boundary": ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, "malformed_body"),
    "a boundary of 10 KB": (
        {"content": b"x", "headers": {"Content-Type": f"multipart/form-data; boundary={'x' * 10_000}"}},
        "malformed_body",
    ),
    "a boundary of 10 KB in 20 MB that are almost all boundaries": (
        {"content": b"-" * 20_000_000, "headers": {"Content-Type": f"multipart/form-data; boundary=x{'-' * 10_000}"}},
        "malformed_body",
    ),
    "a form cut off in its header": ({"content": b"--x\r\nContent-Disp", "headers": FORM}, "malformed_body"),
    "a form cut off in its part": ({"content": part(), "headers": FORM}, "malformed_body"),
    "no form at all": ({"content": b"garbage\r\n--x--\r\n", "headers": FORM}, "malformed_body"),
    "1,001 parts": ({"content": part() * 1001 + b"--x--\r\n", "headers": FORM}, "malformed_body"),
    "20,000 part headers": ({"content": part(more=b"A: b\r\n" * 20_000) + b"--x--\r\n", "headers": FORM}, "malformed_body"),
    "a part header of 100 KB": (
        {"content": part(more=b"A: " + b"b" * 100_000 + b"\r\n") + b"--x--\r\n", "headers": FORM},
        "malformed_body",
    ),
    "a part header without colon": ({"content": part(more=b"nothing\r\n") + b"--x--\r\n", "headers": FORM}, "malformed_body"),
    "20 MB of preamble": ({"content": bytes(20_000_001) + part() + b"--x--\r\n", "headers": FORM}, "too_large"),
    "json": ({"json": {"file": "x"}}, "unsupported_media_type"),
    "urlencoded": ({"data": {"file": "x"}}, "unsupported_media_type"),
    "a text type": ({"content": PNG, "headers": {"Content-Type": "text/plain"}}, "unsupported_media_type"),
    "a video type": ({"content": PNG, "headers": {"Content-Type": "video/mp4"}}, "unsupported_media_type"),
    "gzip": ({"content": zlib.compress(PNG), "headers": {"Content-Encoding": "gzip"}}, "content_encoding"),
    "an encoding of its own": ({"content": PNG, "headers": {"Content-Encoding": "mine"}}, "content_encoding"),
    "one byte too many": ({"content": bytes(20_000_001)}, "too_large"),
    "one byte too many, in chunks": ({"content": stream(21 << 20)}, "too_large"),
    "one byte too many, in a form": ({"files": {"file": bytes(20_000_001)}}, "too_large"),
    "200 MB": ({"content": bytes(200_000_000)}, "too_large"),
    "200 MB in chunks": ({"content": stream(200_000_000)}, "too_large"),
    "an unknown output": ({"content": PNG, "params": {"output": "song"}}, "invalid_parameter"),
    "an unknown format": ({"content": PNG, "params": {"output": "overlay", "format": "bmp"}}, "invalid_parameter"),
    "an unknown resolution": ({"content": PNG, "params": {"resolution": "8k"}}, "invalid_parameter"),
    "flip of something": ({"content": PNG, "params": {"flip": "perhaps"}}, "invalid_parameter"),
    "another method": ({"method": "PUT", "content": PNG}, "method_not_allowed"),
    "another path": ({"url": "/segments", "content": PNG}, "not_found"),
    "two slashes": ({"url": "//segment", "content": PNG}, "not_found"),
    "a path upwards": ({"url": "/../../etc/passwd", "content": PNG}, "not_found"),
}


@pytest.fixture(scope="module")
def url(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "random.safetensors").write_bytes(checkpoint.read_bytes())
    app = create_app(load_settings(checkpoints=[folder], state=tmp_path_factory.mktemp("state"), model="random"))
    with pytest.MonkeyPatch.context() as patch, listening(app) as port:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("tmp")))  # where nobody else writes
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("case", CASES)
def test_a_bad_request_is_told_and_does_no_harm(url: str, case: str) -> None:
    request, code = CASES[case]
    before = sorted(Path(tempfile.gettempdir()).iterdir())
    with httpx.Client(timeout=60) as client:
        reply = client.request(**{"method": "POST", **request, "url": url + request.get("url", "/segment")})
        problem = reply.json()
        assert (reply.status_code, problem["code"]) == (CODES[code], code), problem
        assert reply.headers["content-type"] == "application/problem+json"
        assert set(problem) == {"type", "title", "status", "detail", "code", "request_id"}
        assert problem["status"] == reply.status_code and problem["request_id"] == reply.headers["x-request-id"]
        assert client.post(f"{url}/segment", content=PNG).status_code == 200
    assert sorted(Path(tempfile.gettempdir()).iterdir()) == before


def test_the_catalogue_is_long() -> None:
    assert len(CASES) >= 60


def test_mutated_pictures_get_a_documented_reply(url: str) -> None:
    rng = np.random.default_rng(1)
    codes: Counter[str] = Counter()
    with httpx.Client(timeout=60) as client:
        for number in range(500):
            data = mutated(rng)
            body = {"files": {"file": data}} if number % 2 else {"content": data}
            reply = client.post(f"{url}/segment", **body)
            codes["ok" if reply.status_code == 200 else reply.json()["code"]] += 1
        assert client.post(f"{url}/segment", content=PNG).status_code == 200
    allowed = {"ok", "not_an_image", "broken_image", "too_large", "animated_image", "no_file", "empty_file"}
    assert set(codes) <= allowed and codes["ok"] and codes["broken_image"]
