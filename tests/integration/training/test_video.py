"""`predict` on films: every frame's mask, at the source's frame rate, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from core.data.labels import CITYSCAPES
from core.inference.segmenter import Segmenter
from tests.support.sample_images import photo
from training.prediction.video import Film, writing

FRAMES = 7


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Seven frames that differ, at 12.5 a second."""
    path = tmp_path / "drive" / "clip.avi"
    path.parent.mkdir()
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (96, 64))
    for seed in range(FRAMES):
        writer.write(np.roll(photo(64, 96, seed), 9 * seed, 1)[..., ::-1])
    writer.release()
    return path


@pytest.mark.parametrize("kind", ["overlay", "mask", "beside"])
def test_a_film_of_the_masks_has_the_frames_and_the_rate_of_its_source(
    checkpoint: Path, clip: Path, tmp_path: Path, cli, kind: str
) -> None:
    code, out, err = cli("predict", checkpoint, clip.parent, "--out", tmp_path / "out", "--film", kind)
    assert code == 0 and "1 of 1 films" in out, err
    made, source, segmenter = Film(tmp_path / "out" / f"clip_{kind}.webm"), Film(clip), Segmenter(checkpoint)
    assert made.rate == pytest.approx(12.5)
    frames = list(made)
    assert len(frames) == FRAMES
    for frame, rgb in zip(frames, source, strict=True):
        result = segmenter(rgb)
        expected = {
            "overlay": result.overlay(),
            "mask": CITYSCAPES.palette[result.labels],
            "beside": np.hstack([rgb, result.overlay()]),
        }[kind]
        # the codec halves the resolution of colours
        smooth = [cv2.blur(each, (9, 9)).astype(int) for each in (frame, expected)]
        assert np.abs(smooth[0] - smooth[1]).mean() < 12
        wrong = np.abs(smooth[0] - cv2.blur(np.ascontiguousarray(expected[..., ::-1]), (9, 9))).mean()
        assert np.abs(smooth[0] - smooth[1]).mean() < wrong


def test_shares_of_a_film_are_those_of_its_frames(checkpoint: Path, clip: Path, tmp_path: Path, cli) -> None:
    cli("predict", checkpoint, clip, "--out", tmp_path / "out", "--json", tmp_path / "told.json")
    (told,) = json.loads((tmp_path / "told.json").read_text())["files"]
    assert (told["frames"], told["rate"], told["size"]) == (FRAMES, 12.5, [64, 96])
    shares = [Segmenter(checkpoint)(rgb).shares for rgb in Film(clip)]
    for name, share in told["shares"].items():
        assert share == pytest.approx(np.mean([each.get(name, 0) for each in shares]))


@pytest.mark.parametrize("data", [b"", b"no film", b"\0\0\0\x18ftypmp42" + bytes(100)])
def test_a_bad_film_is_told_and_passed_over(checkpoint: Path, clip: Path, tmp_path: Path, cli, data: bytes) -> None:
    (clip.parent / "bad.mp4").write_bytes(data)
    code, out, err = cli("predict", checkpoint, clip.parent, "--out", tmp_path / "out")
    assert code == 1 and "bad.mp4: can't be read as a film" in err and "1 of 2 films" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"clip_overlay.webm", ".predict.jsonl"}


def test_a_film_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), writing(tmp_path / "a.webm", 25) as writer:
        writer.add(photo())
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_frames_of_another_size_are_brought_to_the_first_one_s(tmp_path: Path) -> None:
    with writing(tmp_path / "a.webm", 25) as writer:
        for side in (64, 128, 64):
            writer.add(photo(side, side))
    assert [frame.shape for frame in Film(tmp_path / "a.webm")] == [(64, 64, 3)] * 3


def test_a_film_that_did_not_arrive_whole_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="frames could be written; is the disk full"), writing(tmp_path / "a.webm", 25) as writer:
        for _ in range(5):
            writer.add(photo(64, 64))
        writer._writer.release()
        writer.path.write_bytes(writer.path.read_bytes()[:300])
    assert list(tmp_path.iterdir()) == []


def test_a_film_that_tells_of_more_frames_than_it_has_is_a_warning(
    checkpoint: Path, clip: Path, tmp_path: Path, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Film.__init__

    def longer(film: Film, path: Path) -> None:
        opened(film, path)
        film.frames = 100

    monkeypatch.setattr(Film, "__init__", longer)
    code, _, err = cli("predict", checkpoint, clip, "--out", tmp_path / "out")
    assert code == 0 and "7 frames could be read, and it tells of 100" in err


def test_results_beside_their_films_are_not_segmented_again(checkpoint: Path, clip: Path, cli) -> None:
    for _ in range(2):
        code, out, err = cli("predict", checkpoint, clip.parent, "--out", clip.parent)
        assert code == 0 and "1 of 1 films" in out, err


def test_an_odd_side_loses_a_row(tmp_path: Path) -> None:
    with writing(tmp_path / "a.webm", 25) as writer:
        writer.add(photo(41, 61))
    assert next(iter(Film(tmp_path / "a.webm"))).shape == (40, 60, 3)


@pytest.mark.parametrize("rate", [0.1, 0.15])
def test_a_film_of_few_frames_a_minute_is_written(tmp_path: Path, rate: float) -> None:
    with writing(tmp_path / "lapse.webm", rate) as writer:
        for seed in range(3):
            writer.add(photo(64, 96, seed))
    assert len(list(Film(tmp_path / "lapse.webm"))) == 3
