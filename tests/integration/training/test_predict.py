"""Tests of `python -m training predict` on images: paths of masks, reuse of earlier masks, and errors."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from core.checkpoints.checkpoint import read_checkpoint
from core.data.labels import CITYSCAPES
from core.images.decode import decode_image
from core.inference.options import InferenceOptions
from core.inference.result import SegmentationResult
from core.inference.segmenter import Segmenter
from core.runtime.atomic import write_atomically
from tests.support.checkpoints import make_checkpoint
from tests.support.cli import Cli
from training.prediction.jobs import Job, plan_jobs
from training.prediction.manifest import PredictionManifest
from training.prediction.predictor import Predictor


@pytest.fixture
def image_dir(tmp_path: Path, rgb_image: np.ndarray) -> Path:
    """A directory with the images one.jpg and a/b/two.png."""
    root = tmp_path / "images"
    (root / "a" / "b").mkdir(parents=True)
    Image.fromarray(rgb_image).save(root / "one.jpg")
    Image.fromarray(rgb_image[:31, :77]).save(root / "a" / "b" / "two.png")
    return root


def list_files(directory: Path) -> set[str]:
    """Return the relative paths of all files except for the manifest."""
    return {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file() and p.name != ".predict.jsonl"}


def test_directory_tree_is_kept(checkpoint: Path, image_dir: Path, tmp_path: Path, cli: Cli) -> None:
    code, out, _ = cli("predict", checkpoint, image_dir, "--out", tmp_path / "out", "--overlay")
    assert code == 0 and "2 of 2 masks" in out
    assert list_files(tmp_path / "out") == {"one.png", "one_overlay.png", "a/b/two.png", "a/b/two_overlay.png"}


def test_mask_has_labels_of_segmenter(checkpoint: Path, image_dir: Path, tmp_path: Path, cli: Cli) -> None:
    cli("predict", checkpoint, image_dir / "one.jpg", "--out", tmp_path / "out")
    expected = Segmenter(checkpoint)(decode_image((image_dir / "one.jpg").read_bytes())).labels
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "one.png")), expected)


def test_ids_label_writes_cityscapes_ids(checkpoint: Path, image_dir: Path, tmp_path: Path, cli: Cli) -> None:
    cli("predict", checkpoint, image_dir / "one.jpg", "--out", tmp_path / "out", "--ids", "label")
    written = cv2.imread(str(tmp_path / "out" / "one.png"), cv2.IMREAD_UNCHANGED)
    assert written.dtype == np.uint8
    assert np.array_equal(
        written, CITYSCAPES.decode(Segmenter(checkpoint)(decode_image((image_dir / "one.jpg").read_bytes())).labels)
    )


def test_damaged_image_is_reported_and_skipped(checkpoint: Path, image_dir: Path, tmp_path: Path, cli: Cli) -> None:
    (image_dir / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    code, out, err = cli("predict", checkpoint, image_dir, "--out", tmp_path / "out")
    assert code == 1 and "bad.png" in err and "2 of 3 masks" in out
    assert list_files(tmp_path / "out") == {"one.png", "a/b/two.png"}


def test_images_with_same_stem_have_different_masks(checkpoint: Path, image_dir: Path, tmp_path: Path, cli: Cli) -> None:
    Image.open(image_dir / "one.jpg").rotate(180).save(image_dir / "one.png")
    code, out, err = cli("predict", checkpoint, image_dir, "--out", tmp_path / "out", "--overlay")
    assert code == 0 and "3 of 3 masks" in out
    assert err.count("keeps it") == 1 and f"{image_dir}/one.jpg" in err and "one.jpg.png" in err
    names = {"one.png", "one_overlay.png", "one.jpg.png", "one.jpg_overlay.png"}
    assert list_files(tmp_path / "out") == {*names, "a/b/two.png", "a/b/two_overlay.png"}
    for source, mask in (("one.png", "one.png"), ("one.jpg", "one.jpg.png")):
        expected = Segmenter(checkpoint)(image_dir / source).labels
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / mask)), expected)
    assert "3 of them from an earlier run" in cli("predict", checkpoint, image_dir, "--out", tmp_path / "out", "--overlay")[1]


def test_images_with_same_name_in_two_directories_are_rejected(
    checkpoint: Path, image_dir: Path, tmp_path: Path, cli: Cli
) -> None:
    Image.open(image_dir / "one.jpg").save(image_dir / "a" / "one.jpg")
    code, _, err = cli("predict", checkpoint, image_dir, image_dir / "a", "--out", tmp_path / "out")
    assert code == 0, err  # A file that is given twice keeps its first output path.
    code, _, err = cli("predict", checkpoint, image_dir / "one.jpg", image_dir / "a" / "one.jpg", "--out", tmp_path / "out2")
    assert code == 2 and "would both be written to" in err and not (tmp_path / "out2").exists()


def test_conflicting_output_names_are_rejected(checkpoint: Path, image_dir: Path, tmp_path: Path, cli: Cli) -> None:
    for name in ("one.png", "one.jpg.png"):
        Image.open(image_dir / "one.jpg").save(image_dir / name)
    code, _, err = cli("predict", checkpoint, image_dir, "--out", tmp_path / "out")
    assert code == 2 and "would both be written to" in err


def test_json_is_written_to_stdout_and_messages_to_stderr(
    checkpoint: Path, image_dir: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (image_dir / "bad.jpg").write_bytes(b"nothing")
    code, out, err = cli("predict", checkpoint, image_dir, "--out", tmp_path / "out", "--json", "-")
    assert code == 1 and [Path(file["file"]).name for file in json.loads(out)["files"]] == ["two.png", "bad.jpg", "one.jpg"]
    assert "2 of 3 masks" in err and "bad.jpg" in err and not (tmp_path / "-").exists()


@pytest.mark.parametrize("path", ["nowhere", "empty"])
def test_missing_input_is_rejected(checkpoint: Path, tmp_path: Path, cli: Cli, path: str) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = cli("predict", checkpoint, tmp_path / path, "--out", tmp_path / "out")
    assert code == 2 and path in err


@pytest.mark.parametrize("out", ["images", "images/../images"])
def test_input_image_is_not_overwritten(checkpoint: Path, image_dir: Path, tmp_path: Path, cli: Cli, out: str) -> None:
    (image_dir / "one.jpg").unlink()
    before = (image_dir / "a" / "b" / "two.png").read_bytes()
    code, _, err = cli("predict", checkpoint, image_dir, "--out", tmp_path / out)
    assert code == 2 and "is an input image and would be overwritten" in err
    assert (image_dir / "a" / "b" / "two.png").read_bytes() == before


def test_overlay_does_not_overwrite_mask(checkpoint: Path, image_dir: Path, tmp_path: Path, cli: Cli) -> None:
    Image.open(image_dir / "one.jpg").save(image_dir / "one_overlay.jpg")
    assert cli("predict", checkpoint, image_dir, "--out", tmp_path / "out")[0] == 0
    code, _, err = cli("predict", checkpoint, image_dir, "--out", tmp_path / "out2", "--overlay")
    assert code == 2 and "one.jpg, would overwrite the mask of another image" in err


def test_output_directory_may_be_parent_of_input(checkpoint: Path, image_dir: Path, cli: Cli) -> None:
    code, out, err = cli("predict", checkpoint, image_dir, "--out", image_dir.parent)
    assert code == 0 and out.startswith("2 of 2 masks"), err


def test_earlier_masks_are_not_inputs(checkpoint: Path, image_dir: Path, cli: Cli) -> None:
    for _ in range(2):
        code, out, err = cli("predict", checkpoint, image_dir, "--out", image_dir / "masks")
        assert code == 0 and out.startswith("2 of 2 masks"), err


def test_existing_masks_are_reused_unless_forced(checkpoint: Path, image_dir: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out"
    cli("predict", checkpoint, image_dir, "--out", out)
    (out / "one.png").write_bytes(b"unchanged")
    (out / "a" / "b" / "two.png").unlink()
    code, stdout, _ = cli("predict", checkpoint, image_dir, "--out", out)
    assert code == 0 and stdout.startswith("2 of 2 masks")
    assert "1 of them from an earlier run (--force repeats them)" in stdout
    assert (out / "one.png").read_bytes() == b"unchanged" and (out / "a" / "b" / "two.png").is_file()
    assert cli("predict", checkpoint, image_dir, "--out", out, "--force")[0] == 0
    assert (out / "one.png").read_bytes() != b"unchanged"


def test_missing_overlay_is_written(checkpoint: Path, image_dir: Path, tmp_path: Path, cli: Cli) -> None:
    for flags in ((), ("--overlay",)):
        assert cli("predict", checkpoint, image_dir, "--out", tmp_path / "out", *flags)[0] == 0
    assert (tmp_path / "out" / "one_overlay.png").is_file()


@pytest.mark.parametrize("flags", [("--ids", "label"), ("--flip",), ("--resolution", "native")])
def test_masks_of_other_options_are_replaced(
    checkpoint: Path, image_dir: Path, tmp_path: Path, cli: Cli, flags: tuple[str, ...]
) -> None:
    cli("predict", checkpoint, image_dir, "--out", tmp_path / "out")
    out = cli("predict", checkpoint, image_dir, "--out", tmp_path / "out", *flags)[1]
    assert out.startswith("2 of 2 masks") and "from an earlier run" not in out
    assert "2 of them from an earlier run" in cli("predict", checkpoint, image_dir, "--out", tmp_path / "out", *flags)[1]


def test_masks_of_other_checkpoint_are_replaced(checkpoint: Path, image_dir: Path, tmp_path: Path, cli: Cli) -> None:
    cli("predict", checkpoint, image_dir, "--out", tmp_path / "out")
    other = make_checkpoint(tmp_path / "other.safetensors", seed=5)
    assert "from an earlier run" not in cli("predict", other, image_dir, "--out", tmp_path / "out")[1]
    written = np.asarray(Image.open(tmp_path / "out" / "one.png"))
    assert np.array_equal(written, Segmenter(other)(image_dir / "one.jpg").labels)


def test_changed_image_is_segmented_again(checkpoint: Path, image_dir: Path, tmp_path: Path, cli: Cli) -> None:
    cli("predict", checkpoint, image_dir, "--out", tmp_path / "out")
    Image.open(image_dir / "one.jpg").rotate(180).save(image_dir / "one.jpg")
    assert "1 of them from an earlier run" in cli("predict", checkpoint, image_dir, "--out", tmp_path / "out")[1]


def test_truncated_manifest_loses_only_last_entry(checkpoint: Path, image_dir: Path, tmp_path: Path, cli: Cli) -> None:
    cli("predict", checkpoint, image_dir, "--out", tmp_path / "out")
    manifest = tmp_path / "out" / ".predict.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-10])
    assert "1 of them from an earlier run" in cli("predict", checkpoint, image_dir, "--out", tmp_path / "out")[1]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("*.jpg", {"one.png"}), ("**/*.png", {"a/b/two.png"}), ("a/?/*", {"b/two.png"}), ("**/*", {"one.png", "a/b/two.png"})],
)
def test_pattern_is_expanded(
    checkpoint: Path, image_dir: Path, tmp_path: Path, cli: Cli, pattern: str, expected: set[str]
) -> None:
    assert cli("predict", checkpoint, image_dir / pattern, "--out", tmp_path / "out")[0] == 0
    assert list_files(tmp_path / "out") == expected
    code, _, err = cli("predict", checkpoint, image_dir / "*.webp", "--out", tmp_path / "out")
    assert code == 2 and "no image or video matches the pattern" in err


@pytest.mark.parametrize("ids", ["train", "label"])
def test_json_has_sizes_and_shares_of_new_and_reused_masks(
    checkpoint: Path, image_dir: Path, tmp_path: Path, cli: Cli, ids: str
) -> None:
    (image_dir / "bad.jpg").write_bytes(b"nothing")
    out, path = tmp_path / "out", tmp_path / "report.json"
    cli("predict", checkpoint, image_dir / "one.jpg", "--out", out, "--ids", ids)
    assert cli("predict", checkpoint, image_dir, "--out", out, "--json", path, "--ids", ids)[0] == 1
    report = json.loads(path.read_text())
    assert report["digest"] == read_checkpoint(checkpoint).digest and report["ids"] == ids
    by_name = {Path(entry["file"]).name: entry for entry in report["files"]}
    assert "not an image" in by_name["bad.jpg"]["error"]
    for name, source in (("one.jpg", image_dir / "one.jpg"), ("two.png", image_dir / "a" / "b" / "two.png")):
        result = Segmenter(checkpoint)(source)
        assert by_name[name]["size"] == list(result.size) and by_name[name]["shares"] == result.class_fractions


def test_mask_replaced_before_interrupt_is_not_reused(
    checkpoint: Path, image_dir: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    cli("predict", checkpoint, image_dir / "one.jpg", "--out", out)
    with monkeypatch.context() as patch:
        record = PredictionManifest.record

        def interrupt(manifest: PredictionManifest, job: Job, fingerprint: list, result: dict) -> None:
            if fingerprint:  # The mask is written, but not recorded yet.
                raise KeyboardInterrupt
            record(manifest, job, fingerprint, result)

        patch.setattr(PredictionManifest, "record", interrupt)
        assert cli("predict", checkpoint, image_dir / "one.jpg", "--out", out, "--ids", "label")[0] == 130
    assert "from an earlier run" not in cli("predict", checkpoint, image_dir / "one.jpg", "--out", out)[1]
    assert np.array_equal(np.asarray(Image.open(out / "one.png")), Segmenter(checkpoint)(image_dir / "one.jpg").labels)


@pytest.fixture
def many_images(tmp_path: Path, rgb_image: np.ndarray) -> list[Path]:
    """Twelve different images, of which the fourth is damaged."""
    paths = [tmp_path / "many" / f"{number:02}.png" for number in range(12)]
    paths[0].parent.mkdir()
    for number, path in enumerate(paths):
        Image.fromarray(np.roll(rgb_image, 9 * number, axis=1)).save(path)
    paths[3].write_bytes(b"nothing")
    return paths


def test_mask_is_written_while_next_image_is_segmented(
    checkpoint: Path, many_images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter, second_segmented = Segmenter(checkpoint), threading.Event()
    predictor = Predictor(segmenter, InferenceOptions(), tmp_path / "out", "train", "overlay")
    segment_batch, calls = segmenter.segment_batch, []

    def count(*args: object, **options: object) -> list[SegmentationResult]:
        calls.append(args)
        if len(calls) == 2:
            second_segmented.set()
        return segment_batch(*args, **options)

    def wait_for_second(path: Path, chunks: list[bytes]) -> None:
        assert second_segmented.wait(20)
        write_atomically(path, chunks)

    monkeypatch.setattr(segmenter, "segment_batch", count)
    monkeypatch.setattr("training.prediction.predictor.write_atomically", wait_for_second)
    jobs = plan_jobs([str(path) for path in many_images[:3]], tmp_path / "out", image_suffixes=(), rendering="overlay")
    assert [outcome.result["size"] for outcome in predictor.run_jobs(jobs, show_progress=False)] == [[90, 120]] * 3


def test_images_run_together_on_backend_with_several_streams(
    checkpoint: Path, many_images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = Segmenter(checkpoint)
    expected = [segmenter(path).labels for path in many_images if path != many_images[3]]
    forward, batches = segmenter.backend.forward, []
    monkeypatch.setattr(segmenter.backend, "batch_size", 4, raising=False)
    monkeypatch.setattr(segmenter.backend, "forward", lambda batch: batches.append(len(batch)) or forward(batch))
    predictor = Predictor(segmenter, InferenceOptions(), tmp_path / "out", "train", "overlay")
    jobs = plan_jobs([str(path) for path in many_images], tmp_path / "out", image_suffixes=(), rendering="overlay")
    outcomes = predictor.run_jobs(jobs, show_progress=False)
    assert batches == [3, 4, 4] and ["error" in outcome.result for outcome in outcomes] == [n == 3 for n in range(12)]
    written = [np.asarray(Image.open(job.targets[0])) for job in jobs if job != jobs[3]]
    assert all(np.array_equal(*pair) for pair in zip(written, expected, strict=True))


def test_file_given_twice_is_segmented_once(checkpoint: Path, image_dir: Path, tmp_path: Path, cli: Cli) -> None:
    out = cli("predict", checkpoint, image_dir, image_dir / "one.jpg", image_dir / "a", "--out", tmp_path / "out")[1]
    assert out.startswith("2 of 2 masks")


def test_broken_link_is_reported_and_skipped(checkpoint: Path, image_dir: Path, tmp_path: Path, cli: Cli) -> None:
    (image_dir / "broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    code, out, err = cli("predict", checkpoint, image_dir, "--out", tmp_path / "out")
    assert code == 1 and "broken.jpg" in err and "2 of 3 masks" in out


def test_invalid_pattern_is_rejected(checkpoint: Path, image_dir: Path, tmp_path: Path, cli: Cli) -> None:
    code, _, err = cli("predict", checkpoint, f"{image_dir}/**_left.png", "--out", tmp_path / "out")
    assert code == 2 and "not a valid pattern" in err


def test_replacing_masks_of_other_checkpoint_is_reported(checkpoint: Path, scenes: Path, tmp_path: Path, cli: Cli) -> None:
    image_path = next((scenes / "leftImg8bit" / "val").rglob("*.png"))
    other = make_checkpoint(tmp_path / "other.safetensors", seed=5)
    expected = ((checkpoint, "1 of 1 masks"), (other, "replacing those of another checkpoint"), (other, "from an earlier run"))
    for model, message in expected:
        assert message in cli("predict", model, image_path, "--out", tmp_path / "masks")[1]


def test_confidence_is_written_in_gray(checkpoint: Path, image_dir: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("predict", checkpoint, image_dir / "one.jpg", "--out", tmp_path / "out", "--confidence")[0] == 0
    assert list_files(tmp_path / "out") == {"one.png", "one_confidence.png"}
    written = Image.open(tmp_path / "out" / "one_confidence.png")
    expected = Segmenter(checkpoint)(image_dir / "one.jpg", confidence=True).confidence
    assert written.mode == "L" and np.abs(np.asarray(written) / 255 - expected).max() <= 0.5 / 255 + 1e-6


def test_legend_is_added_to_overlays(checkpoint: Path, image_dir: Path, tmp_path: Path, cli: Cli) -> None:
    flags = ("--out", tmp_path / "out", "--overlay", "--legend")
    assert cli("predict", checkpoint, image_dir / "one.jpg", *flags)[0] == 0
    expected = Segmenter(checkpoint)(image_dir / "one.jpg").overlay(legend=True)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "one_overlay.png")), expected)


@pytest.mark.parametrize(("limit", "code"), [(90 * 120, 0), (90 * 120 - 1, 1)])
def test_max_pixels_limits_images(checkpoint: Path, image_dir: Path, tmp_path: Path, cli: Cli, limit: int, code: int) -> None:
    flags = ("--out", tmp_path / "out", "--max-pixels", limit)
    actual, _, err = cli("predict", checkpoint, image_dir / "one.jpg", *flags)
    assert actual == code and ("expected at most" in err) == bool(code)
