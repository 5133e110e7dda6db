"""Tests of `python -m training predict` on videos. Those in tests/data/videos were made with the ffmpeg command."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from core.data.labels import CITYSCAPES
from core.errors import InputError
from core.images.decode import RGB, load_image
from core.inference.result import SegmentationResult
from core.inference.segmenter import Segmenter
from tests.support.cli import Cli
from tests.support.paths import ROOT
from tests.support.sample_images import sample_image
from training.prediction.video import Frame, VideoReader, segment_video

FRAMES = 7
VIDEOS = ROOT / "tests" / "data" / "videos"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A video of FRAMES different frames at 12.5 frames per second."""
    path = tmp_path / "drive" / "clip.avi"
    path.parent.mkdir()
    write_clip(path, [np.roll(sample_image(64, 96, seed), 9 * seed, 1) for seed in range(FRAMES)], 12.5)
    return path


def write_clip(path: Path, frames: list[RGB], rate: float) -> None:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), rate, (width, height))
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()


def read_frames(path: Path) -> list[Frame]:
    return [item for item in VideoReader(path) if isinstance(item, Frame)]


def label_nothing(rgb: RGB) -> SegmentationResult:
    """Segment without a network: every pixel is void, so that an overlay equals the image."""
    return SegmentationResult(load_image(rgb), np.full(rgb.shape[:2], 255, np.uint8), CITYSCAPES)


def opencv_frames(path: Path) -> int:
    """Count the frames with OpenCV's decoder."""
    capture = cv2.VideoCapture(str(path))
    return sum(1 for _ in iter(capture.grab, False))


@pytest.mark.parametrize(
    ("kind", "video_format"), [("overlay", "mp4"), ("mask", "mp4"), ("beside", "mp4"), ("overlay", "webm")]
)
def test_output_has_frames_and_frame_rate_of_source(
    checkpoint: Path, clip: Path, tmp_path: Path, cli: Cli, kind: str, video_format: str
) -> None:
    flags = ("--out", tmp_path / "out", "--video", kind, "--video-format", video_format)
    code, out, err = cli("predict", checkpoint, clip.parent, *flags)
    assert code == 0 and "1 of 1 videos" in out, err
    output, segmenter = tmp_path / "out" / f"clip_{kind}.{video_format}", Segmenter(checkpoint)
    assert float(VideoReader(output).frame_rate) == pytest.approx(12.5)
    frames = read_frames(output)
    assert len(frames) == FRAMES
    for (frame, _, _), (rgb, _, _) in zip(frames, read_frames(clip), strict=True):
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
    shares = [Segmenter(checkpoint)(rgb).class_fractions for rgb, _, _ in read_frames(clip)]
    for name, share in entry["shares"].items():
        assert share == pytest.approx(np.mean([fractions.get(name, 0) for fractions in shares]))


@pytest.mark.parametrize("data", [b"", b"no video", b"\0\0\0\x18ftypmp42" + bytes(100)])
def test_damaged_video_is_reported_and_skipped(checkpoint: Path, clip: Path, tmp_path: Path, cli: Cli, data: bytes) -> None:
    (clip.parent / "bad.mp4").write_bytes(data)
    code, out, err = cli("predict", checkpoint, clip.parent, "--out", tmp_path / "out")
    assert code == 1 and "bad.mp4: can't be read as a video" in err and "1 of 2 videos" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"clip_overlay.mp4", ".predict.jsonl"}


def test_output_next_to_source_is_not_an_input(checkpoint: Path, clip: Path, cli: Cli) -> None:
    for _ in range(2):
        code, out, err = cli("predict", checkpoint, clip.parent, "--out", clip.parent)
        assert code == 0 and "1 of 1 videos" in out, err


def test_interrupted_video_leaves_no_file(clip: Path, tmp_path: Path) -> None:
    def interrupt(rgb: RGB) -> SegmentationResult:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_video(clip, tmp_path / "out" / "a.mp4", interrupt, "overlay")
    assert list((tmp_path / "out").iterdir()) == []


def test_full_disk_is_reported_and_leaves_no_file(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.symlink_to("/dev/full")  # of which the writer deletes the link, not the device
    monkeypatch.setattr("training.prediction.video.temp_path_for", lambda path: temporary)
    with pytest.raises(OSError, match=r"a\.webm: can't be written"):
        segment_video(clip, tmp_path / "a.webm", label_nothing, "overlay")
    assert not (tmp_path / "a.webm").exists()


def test_odd_size_is_cropped_to_even(tmp_path: Path) -> None:
    write_clip(tmp_path / "odd.avi", [sample_image(41, 61)] * 2, 25)
    segment_video(tmp_path / "odd.avi", tmp_path / "a.mp4", label_nothing, "overlay")
    assert read_frames(tmp_path / "a.mp4")[0].rgb.shape == (40, 60, 3)


@pytest.mark.parametrize("rate", [0.1, 0.15])
def test_low_frame_rate_is_kept(tmp_path: Path, rate: float) -> None:
    write_clip(tmp_path / "lapse.avi", [sample_image(64, 96, seed) for seed in range(3)], rate)
    segment_video(tmp_path / "lapse.avi", tmp_path / "a.mp4", label_nothing, "overlay")
    assert opencv_frames(tmp_path / "a.mp4") == 3
    assert av.open(str(tmp_path / "a.mp4")).duration == pytest.approx(3e6 / rate, rel=0.02)


def test_legend_is_below_frames(clip: Path, tmp_path: Path) -> None:
    segment_video(clip, tmp_path / "a.mp4", label_nothing, "overlay", legend=True)
    height, width = read_frames(tmp_path / "a.mp4")[0].rgb.shape[:2]
    assert height > 64 and width == 96


def test_rotated_video_is_upright_as_ffmpeg_shows_it() -> None:
    expected = np.asarray(Image.open(VIDEOS / "rotated.png"))
    assert np.array_equal(read_frames(VIDEOS / "rotated.mp4")[0].rgb, expected)


def test_interlaced_video_is_deinterlaced_like_ffmpeg_does() -> None:
    expected = np.asarray(Image.open(VIDEOS / "interlaced_frame_3.png"))
    frames = read_frames(VIDEOS / "interlaced.mpg")
    assert len(frames) == 10 and np.abs(frames[2].rgb.astype(int) - expected).mean() < 1


def test_wide_pixels_become_square(tmp_path: Path) -> None:
    segment_video(VIDEOS / "wide_pixels.mp4", tmp_path / "a.mp4", label_nothing, "overlay")
    assert read_frames(VIDEOS / "wide_pixels.mp4")[0].rgb.shape == (64, 192, 3)
    assert av.open(str(tmp_path / "a.mp4")).streams.video[0].sample_aspect_ratio in (None, 1)


@pytest.mark.parametrize("name", ["sound.mp4", "rotated.mp4", "variable_rate.mp4", "interlaced.mpg", "pcm_sound.avi"])
@pytest.mark.parametrize("extension", ["mp4", "webm"])
def test_timestamps_and_sound_are_kept(tmp_path: Path, name: str, extension: str) -> None:
    output = tmp_path / f"a.{extension}"
    segment_video(VIDEOS / name, output, label_nothing, "overlay")
    source_frames, frames = read_frames(VIDEOS / name), read_frames(output)
    source, result = VideoReader(VIDEOS / name), VideoReader(output)
    times = [float(frame.pts * source.time_base) for frame in source_frames]
    assert [float(frame.pts * result.time_base) for frame in frames] == pytest.approx(times, abs=2e-3)
    assert opencv_frames(output) == len(frames)
    assert (source.audio is None) == (result.audio is None)
    if source.audio is not None:
        assert sound_seconds(output) == pytest.approx(sound_seconds(VIDEOS / name), abs=0.05)


def sound_seconds(path: Path) -> float:
    """Return the duration of the sound that is not silence."""
    with av.open(str(path)) as container:
        samples = [np.abs(frame.to_ndarray()).max(0).ravel().astype(float) for frame in container.decode(audio=0)]
        rate = container.streams.audio[0].rate
    loud = np.concatenate(samples)
    return int((loud > loud.max() / 100).nonzero()[0].max()) / rate


def test_truncated_video_is_an_error_and_not_done(checkpoint: Path, tmp_path: Path, cli: Cli) -> None:
    data = (VIDEOS / "sound.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    for _ in range(2):
        code, _, err = cli("predict", checkpoint, tmp_path / "cut.mp4", "--out", tmp_path / "out")
        assert code == 1 and "cut.mp4: damaged or incomplete" in err and "of 15 frames could be read" in err
    assert not (tmp_path / "out" / "cut_overlay.mp4").exists()


def test_sound_without_pictures_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        container.add_stream("aac", rate=8000)
    with pytest.raises(InputError, match=r"a\.mp4: can't be read as a video"):
        VideoReader(tmp_path / "a.mp4")


@pytest.fixture
def stream_url(tmp_path: Path) -> Iterator[str]:
    """The address of a video on an HTTP server, with a password."""
    shutil.copy(VIDEOS / "sound.mp4", tmp_path)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://user:secret@127.0.0.1:{server.server_port}/sound.mp4"
        server.shutdown()


def test_stream_is_segmented(checkpoint: Path, stream_url: str, tmp_path: Path, cli: Cli) -> None:
    code, out, err = cli("predict", checkpoint, stream_url, "--out", tmp_path / "out")
    assert code == 0 and "1 of 1 videos" in out and "secret" not in out + err
    (written,) = (tmp_path / "out").glob("*_overlay.mp4")
    assert opencv_frames(written) == 15 and "secret" not in written.name


def test_interrupted_stream_keeps_what_was_read(stream_url: str, tmp_path: Path) -> None:
    calls = []

    def interrupt_at_fifth(rgb: RGB) -> SegmentationResult:
        calls.append(rgb)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return label_nothing(rgb)

    assert segment_video(stream_url, tmp_path / "a.mp4", interrupt_at_fifth, "overlay").frames == 4
    assert opencv_frames(tmp_path / "a.mp4") == 4


def test_unreachable_stream_is_reported_without_password(checkpoint: Path, tmp_path: Path, cli: Cli) -> None:
    code, _, err = cli("predict", checkpoint, "rtsp://user:secret@127.0.0.1:1/x", "--out", tmp_path / "out")
    assert code == 1 and "rtsp://127.0.0.1:1/x: can't be read as a video" in err and "secret" not in err
