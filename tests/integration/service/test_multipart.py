"""Parts of a form: the bytes that httpx put into it."""

from __future__ import annotations

import httpx
import numpy as np
import pytest

from service.api.multipart import MOST, parse_form


def parts_of(files: list[tuple[str, tuple[str | None, bytes]]]) -> list[tuple[dict[bytes, bytes], bytes]]:
    request = httpx.Request("POST", "http://x", files=files, headers={"Content-Type": "multipart/form-data; boundary=x-y"})
    return [(part.disposition(), part.content()) for part in parse_form(request.headers["content-type"], request.read())]


@pytest.mark.parametrize("seed", range(20))
def test_content_that_looks_like_boundaries_comes_back_as_it_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    words = [b"\r", b"\n", b"\r\n", b"--", b"x-y", b"\r\n--x", b"\r\n--x-", b"\r\n-", b"\0", b"Content-Disposition: ", b""]
    contents = [b"".join(rng.choice(np.array(words, object), 200).tolist()) for _ in range(3)]
    contents = [content.replace(b"\r\n--x-y", b"") for content in contents]
    found = parts_of([(f"part {n}", (f"{n}.jpg", content)) for n, content in enumerate(contents)])
    assert [content for _, content in found] == contents


def test_names_and_file_names_are_told_apart() -> None:
    (text, _), (file, _) = parts_of([("file", (None, b"1")), ("file", ('a "b"; c.jpg', b"2"))])
    assert text == {b"name": b"file"}
    assert file[b"name"] == b"file" and b"filename" in file


def test_more_parts_than_anybody_needs_are_refused() -> None:
    assert len(parts_of([("part", (None, b""))] * MOST)) == MOST
    with pytest.raises(ValueError, match=f"more than {MOST} parts"):
        parts_of([("part", (None, b""))] * (MOST + 1))


@pytest.mark.parametrize("boundary", [b"x" + b"-" * 70, b"x" + b"-" * 10_000])
def test_a_boundary_longer_than_any_is_not_looked_for(boundary: bytes) -> None:
    with pytest.raises(ValueError, match="longer than 70 bytes"):
        parse_form("multipart/form-data; boundary=" + boundary.decode(), b"-" * 20_000_000)


def test_what_follows_the_last_boundary_is_passed_over() -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    (part,) = parse_form("multipart/form-data; boundary=x", head + b"content\r\n--x--\r\n" + b"-" * 100_000)
    assert part.content() == b"content"


def test_what_is_wrong_with_a_form_is_told_without_its_bytes() -> None:
    with pytest.raises(ValueError, match="not as RFC 7578 wants them"):
        parse_form("multipart/form-data; boundary=x", b"secret\r\n--x--\r\n")
