"""Tests of `python -m training predict` on videos."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from core.data.labels import CITYSCAPES
from core.inference.segmenter import Segmenter
from tests.support.cli import Cli
from tests.support.sample_images import sample_image
from training.prediction.video import VideoReader, video_writer

FRAMES = 7


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A video of FRAMES different frames at 12.5 frames per second."""
    path = tmp_path / "drive" / "clip.avi"
    path.parent.mkdir()
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (96, 64))
    for seed in range(FRAMES):
        writer.write(np.roll(sample_image(64, 96, seed), 9 * seed, 1)[..., ::-1])
    writer.release()
    return path


@pytest.mark.parametrize("kind", ["overlay", "mask", "beside"])
def test_output_has_frames_and_frame_rate_of_source(checkpoint: Path, clip: Path, tmp_path: Path, cli: Cli, kind: str) -> None:
    code, out, err = cli("predict", checkpoint, clip.parent, "--out", tmp_path / "out", "--video", kind)
    assert code == 0 and "1 of 1 videos" in out, err
    output, source, segmenter = VideoReader(tmp_path / "out" / f"clip_{kind}.webm"), VideoReader(clip), Segmenter(checkpoint)
    assert output.frame_rate == pytest.approx(12.5)
    frames = list(output)
    assert len(frames) == FRAMES
    for frame, rgb in zip(frames, source, strict=True):
        result = segmenter(rgb)
        expected = {
            "overlay": result.overlay(),
            "mask": CITYSCAPES.palette[result.labels],
            "beside": np.hstack([rgb, result.overlay()]),
        }[kind]
        # Blur, because the codec halves the resolution of colors.
        actual, correct, swapped = (
            cv2.blur(np.ascontiguousarray(image), (9, 9)).astype(int) for image in (frame, expected, expected[..., ::-1])
        )
        error = np.abs(actual - correct).mean()
        assert error < 12 and error < np.abs(actual - swapped).mean()  # swapped: BGR instead of RGB


def test_json_has_mean_shares_of_frames(checkpoint: Path, clip: Path, tmp_path: Path, cli: Cli) -> None:
    cli("predict", checkpoint, clip, "--out", tmp_path / "out", "--json", tmp_path / "report.json")
    (entry,) = json.loads((tmp_path / "report.json").read_text())["files"]
    assert (entry["frames"], entry["rate"], entry["size"]) == (FRAMES, 12.5, [64, 96])
    shares = [Segmenter(checkpoint)(rgb).class_fractions for rgb in VideoReader(clip)]
    for name, share in entry["shares"].items():
        assert share == pytest.approx(np.mean([fractions.get(name, 0) for fractions in shares]))


@pytest.mark.parametrize("data", [b"", b"no video", b"\0\0\0\x18ftypmp42" + bytes(100)])
def test_damaged_video_is_reported_and_skipped(checkpoint: Path, clip: Path, tmp_path: Path, cli: Cli, data: bytes) -> None:
    (clip.parent / "bad.mp4").write_bytes(data)
    code, out, err = cli("predict", checkpoint, clip.parent, "--out", tmp_path / "out")
    assert code == 1 and "bad.mp4: can't be read as a video" in err and "1 of 2 videos" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"clip_overlay.webm", ".predict.jsonl"}


def test_interrupted_video_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), video_writer(tmp_path / "a.webm", 25) as writer:
        writer.write(sample_image())
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_frames_are_resized_to_first_frame(tmp_path: Path) -> None:
    with video_writer(tmp_path / "a.webm", 25) as writer:
        for side in (64, 128, 64):
            writer.write(sample_image(side, side))
    assert [frame.shape for frame in VideoReader(tmp_path / "a.webm")] == [(64, 64, 3)] * 3


def test_incomplete_output_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="frames could be written; is the disk full"),
        video_writer(tmp_path / "a.webm", 25) as writer,
    ):
        for _ in range(5):
            writer.write(sample_image(64, 64))
        writer._writer.release()
        writer.path.write_bytes(writer.path.read_bytes()[:300])
    assert list(tmp_path.iterdir()) == []


def test_fewer_frames_than_in_header_gives_warning(
    checkpoint: Path, clip: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    original_init = VideoReader.__init__

    def init(reader: VideoReader, path: Path) -> None:
        original_init(reader, path)
        reader.frames = 100

    monkeypatch.setattr(VideoReader, "__init__", init)
    code, _, err = cli("predict", checkpoint, clip, "--out", tmp_path / "out")
    assert code == 0 and "7 frames could be read; its header specifies 100" in err


def test_output_next_to_source_is_not_an_input(checkpoint: Path, clip: Path, cli: Cli) -> None:
    for _ in range(2):
        code, out, err = cli("predict", checkpoint, clip.parent, "--out", clip.parent)
        assert code == 0 and "1 of 1 videos" in out, err


def test_odd_size_is_cropped_to_even(tmp_path: Path) -> None:
    with video_writer(tmp_path / "a.webm", 25) as writer:
        writer.write(sample_image(41, 61))
    assert next(iter(VideoReader(tmp_path / "a.webm"))).shape == (40, 60, 3)


@pytest.mark.parametrize("rate", [0.1, 0.15])
def test_low_frame_rate_is_written(tmp_path: Path, rate: float) -> None:
    with video_writer(tmp_path / "lapse.webm", rate) as writer:
        for seed in range(3):
            writer.write(sample_image(64, 96, seed))
    assert len(list(VideoReader(tmp_path / "lapse.webm"))) == 3
