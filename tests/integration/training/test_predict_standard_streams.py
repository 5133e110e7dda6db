"""Tests of `python -m training predict` with an image from standard input, and with a result to standard output."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cli import Cli, usage_error
from tests.support.sample_images import encode_image

JPEG, OTHER_PNG = encode_image("JPEG"), encode_image()
Pipe = Callable[[bytes], io.BytesIO]


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Pipe:
    """A function that replaces standard input by the given bytes, and returns what is written to standard output."""

    def replace(data: bytes) -> io.BytesIO:
        output = io.BytesIO()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(output, write_through=True))
        return output

    return replace


@pytest.fixture
def terminal() -> Iterator[io.TextIOWrapper]:
    """The terminal side of a pseudoterminal."""
    other_side, descriptor = os.openpty()
    with os.fdopen(descriptor, "w") as stream:
        yield stream
    os.close(other_side)


@pytest.fixture
def street(tmp_path: Path) -> Path:
    path = tmp_path / "street.jpg"
    path.write_bytes(JPEG)
    return path


@pytest.mark.parametrize(
    ("flags", "suffix"),
    [((), ""), (("--ids", "label"), ""), (("--overlay", "--legend"), "_overlay"), (("--confidence",), "_confidence")],
)
def test_stdout_has_bytes_of_written_file(
    checkpoint: Path, street: Path, tmp_path: Path, cli: Cli, pipe: Pipe, flags: tuple[str, ...], suffix: str
) -> None:
    assert cli("predict", checkpoint, street, "--out", tmp_path / "out", *flags)[0] == 0
    output = pipe(JPEG)
    assert cli("predict", checkpoint, "-", "--out", "-", *flags)[0] == 0
    assert output.getvalue() == (tmp_path / "out" / f"street{suffix}.png").read_bytes()


def test_stdout_takes_result_of_file_and_json_goes_to_file(
    checkpoint: Path, street: Path, tmp_path: Path, cli: Cli, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = pipe(b"")
    assert cli("predict", checkpoint, street, "--out", "-", "--json", "report.json")[0] == 0
    assert output.getvalue().startswith(b"\x89PNG") and {path.name for path in tmp_path.iterdir()} == {
        street.name,
        "report.json",
    }
    (entry,) = json.loads(Path("report.json").read_text())["files"]
    assert entry["written"] == ["-"] and entry["size"] == [40, 60]


def test_results_of_stdin_are_files_named_stdin(checkpoint: Path, tmp_path: Path, cli: Cli, pipe: Pipe) -> None:
    output = pipe(JPEG)
    flags = ("--overlay", "--confidence", "--json", "-")
    assert cli("predict", checkpoint, "-", "--out", tmp_path / "out", *flags)[0] == 0
    assert {p.name for p in (tmp_path / "out").glob("*.png")} == {"stdin.png", "stdin_overlay.png", "stdin_confidence.png"}
    assert [file["file"] for file in json.loads(output.getvalue())["files"]] == ["stdin"]


def test_result_of_stdin_is_reused_for_same_image_only(checkpoint: Path, tmp_path: Path, cli: Cli, pipe: Pipe) -> None:
    for data, is_reused in ((JPEG, False), (JPEG, True), (OTHER_PNG, False)):
        output = pipe(data)
        assert cli("predict", checkpoint, "-", "--out", tmp_path / "out")[0] == 0
        assert (b"from an earlier run" in output.getvalue()) == is_reused


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "is empty; expected a JPEG"), (b"hello", "not an image"), (b"\0\0\0\x18ftypmp42", "this looks like a video")],
    ids=["empty", "text", "video"],
)
def test_unusable_stdin_is_rejected(checkpoint: Path, cli: Cli, pipe: Pipe, data: bytes, message: str) -> None:
    output = pipe(data)
    assert message in usage_error(cli, "predict", checkpoint, "-", "--out", "-")
    assert output.getvalue() == b""


def test_terminal_as_stdin_is_rejected(
    checkpoint: Path, cli: Cli, terminal: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", terminal)
    message = usage_error(cli, "predict", checkpoint, "-")
    assert "standard input is a terminal" in message and "cat street.jpg |" in message


def test_terminal_as_stdout_is_rejected(
    checkpoint: Path, street: Path, cli: Cli, terminal: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", terminal)
    assert "redirect it" in usage_error(cli, "predict", checkpoint, street, "--out", "-")


def test_size_of_stdin_is_limited(checkpoint: Path, cli: Cli, pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.prediction.standard_streams.MAX_METADATA_BYTES", 0)
    pipe(OTHER_PNG + bytes(100_000))
    assert "more than 8,000 bytes" in usage_error(cli, "predict", checkpoint, "-", "--max-pixels", 1000)


def test_damaged_stdin_writes_nothing_to_stdout(checkpoint: Path, tmp_path: Path, cli: Cli, pipe: Pipe) -> None:
    output = pipe(OTHER_PNG[:60])
    code, _, err = cli("predict", checkpoint, "-", "--out", "-", "--json", tmp_path / "report.json")
    assert code == 1 and "standard input: the image is truncated" in err and output.getvalue() == b""
    assert "truncated" in json.loads((tmp_path / "report.json").read_text())["files"][0]["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-", "--json", "-"), "--json: standard output is for the image"),
        (("-", "--overlay", "--confidence"), "specify --overlay or --confidence"),
        (("-", "street.jpg"), "got 2 files"),
        (("clip.mp4",), "got a video"),
    ],
    ids=["json", "two results", "two images", "video"],
)
def test_second_result_for_stdout_is_rejected(
    checkpoint: Path,
    street: Path,
    cli: Cli,
    pipe: Pipe,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(street.parent)
    Path("clip.mp4").write_bytes(b"")
    output = pipe(JPEG)
    assert message in usage_error(cli, "predict", checkpoint, "--out", "-", *arguments)
    assert output.getvalue() == b""


def test_stdin_and_file_of_same_name_are_rejected(checkpoint: Path, tmp_path: Path, cli: Cli, pipe: Pipe) -> None:
    (tmp_path / "stdin.jpg").write_bytes(JPEG)
    pipe(JPEG)
    assert "would overwrite" in usage_error(cli, "predict", checkpoint, "-", tmp_path / "stdin.jpg", "--out", tmp_path / "out")
