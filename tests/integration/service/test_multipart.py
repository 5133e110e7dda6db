"""The parser of multipart forms: it returns exactly the parts that httpx has encoded."""

from __future__ import annotations

import httpx
import numpy as np
import pytest

from service.api.multipart import MAX_PARTS, parse_form

File = tuple[str, tuple[str | None, bytes]]


def encode_and_parse(files: list[File]) -> list[tuple[dict[bytes, bytes], bytes]]:
    """Encode files as httpx does, parse the form, and return the disposition and the content of each part."""
    request = httpx.Request("POST", "http://x", files=files, headers={"Content-Type": "multipart/form-data; boundary=x-y"})
    return [(part.disposition(), part.content()) for part in parse_form(request.headers["content-type"], request.read())]


@pytest.mark.parametrize("seed", range(20))
def test_content_similar_to_boundary_is_preserved(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fragments = [b"\r", b"\n", b"\r\n", b"--", b"x-y", b"\r\n--x", b"\r\n--x-", b"\r\n-", b"\0", b"Content-Disposition: ", b""]
    contents = [b"".join(rng.choice(np.array(fragments, object), 200).tolist()) for _ in range(3)]
    contents = [content.replace(b"\r\n--x-y", b"") for content in contents]
    parts = encode_and_parse([(f"part {n}", (f"{n}.jpg", content)) for n, content in enumerate(contents)])
    assert [content for _, content in parts] == contents


def test_field_and_file_have_different_dispositions() -> None:
    (field, _), (file, _) = encode_and_parse([("file", (None, b"1")), ("file", ('a "b"; c.jpg', b"2"))])
    assert field == {b"name": b"file"}
    assert file[b"name"] == b"file" and b"filename" in file


def test_too_many_parts_raise() -> None:
    assert len(encode_and_parse([("part", (None, b""))] * MAX_PARTS)) == MAX_PARTS
    with pytest.raises(ValueError, match=f"more than {MAX_PARTS} parts"):
        encode_and_parse([("part", (None, b""))] * (MAX_PARTS + 1))


@pytest.mark.parametrize("boundary", [b"x" + b"-" * 70, b"x" + b"-" * 10_000])
def test_too_long_boundary_raises_without_search(boundary: bytes) -> None:
    with pytest.raises(ValueError, match="longer than 70 bytes"):
        parse_form("multipart/form-data; boundary=" + boundary.decode(), b"-" * 20_000_000)


def test_epilogue_is_ignored() -> None:
    header = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    (part,) = parse_form("multipart/form-data; boundary=x", header + b"content\r\n--x--\r\n" + b"-" * 100_000)
    assert part.content() == b"content"


def test_parse_error_does_not_echo_body() -> None:
    with pytest.raises(ValueError, match="do not conform to RFC 7578") as error:
        parse_form("multipart/form-data; boundary=x", b"secret\r\n--x--\r\n")
    assert "secret" not in str(error.value)
