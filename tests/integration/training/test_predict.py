"""`predict`: a mask for every photograph, at its place in the tree."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from core.checkpoints.checkpoint import read_checkpoint
from core.data.labels import CITYSCAPES
from core.images.decode import read_photo
from core.inference.segmenter import Segmenter
from tests.conftest import make_checkpoint
from training.prediction.jobs import Job
from training.prediction.manifest import Done


@pytest.fixture
def folder(tmp_path: Path, photo: np.ndarray) -> Path:
    root = tmp_path / "photos"
    (root / "a" / "b").mkdir(parents=True)
    Image.fromarray(photo).save(root / "one.jpg")
    Image.fromarray(photo[:31, :77]).save(root / "a" / "b" / "two.png")
    return root


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != ".predict.jsonl"}


def test_a_folder_s_tree_is_kept(checkpoint: Path, folder: Path, tmp_path: Path, cli) -> None:
    code, out, _ = cli("predict", checkpoint, folder, "--out", tmp_path / "out", "--overlay")
    assert code == 0 and "2 of 2 masks" in out
    assert files(tmp_path / "out") == {"one.png", "one_overlay.png", "a/b/two.png", "a/b/two_overlay.png"}


def test_a_mask_holds_the_segmenter_s_indices(checkpoint: Path, folder: Path, tmp_path: Path, cli) -> None:
    cli("predict", checkpoint, folder / "one.jpg", "--out", tmp_path / "out")
    expected = Segmenter(checkpoint)(read_photo(folder / "one.jpg")).labels
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "one.png")), expected)


def test_label_ids_are_what_the_official_scripts_want(checkpoint: Path, folder: Path, tmp_path: Path, cli) -> None:
    cli("predict", checkpoint, folder / "one.jpg", "--out", tmp_path / "out", "--ids", "label")
    written = cv2.imread(str(tmp_path / "out" / "one.png"), cv2.IMREAD_UNCHANGED)
    assert written.dtype == np.uint8
    assert np.array_equal(written, CITYSCAPES.decode(Segmenter(checkpoint)(read_photo(folder / "one.jpg")).labels))


def test_a_bad_file_is_told_and_passed_over(checkpoint: Path, folder: Path, tmp_path: Path, cli) -> None:
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    code, out, err = cli("predict", checkpoint, folder, "--out", tmp_path / "out")
    assert code == 1 and "bad.png" in err and "2 of 3 masks" in out
    assert files(tmp_path / "out") == {"one.png", "a/b/two.png"}


def test_two_masks_of_one_name_are_told(checkpoint: Path, folder: Path, tmp_path: Path, cli) -> None:
    Image.open(folder / "one.jpg").save(folder / "one.png")
    code, _, err = cli("predict", checkpoint, folder, "--out", tmp_path / "out")
    assert code == 2 and "would both become" in err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", ["nowhere", "empty"])
def test_nothing_to_predict_is_told(checkpoint: Path, tmp_path: Path, cli, given: str) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = cli("predict", checkpoint, tmp_path / given, "--out", tmp_path / "out")
    assert code == 2 and given in err


@pytest.mark.parametrize("out", ["photos", "photos/../photos"])
def test_a_photograph_is_never_replaced(checkpoint: Path, folder: Path, tmp_path: Path, cli, out: str) -> None:
    (folder / "one.jpg").unlink()
    before = (folder / "a" / "b" / "two.png").read_bytes()
    code, _, err = cli("predict", checkpoint, folder, "--out", tmp_path / out)
    assert code == 2 and "is a photograph and would be replaced" in err
    assert (folder / "a" / "b" / "two.png").read_bytes() == before


def test_an_overlay_never_takes_the_place_of_a_mask(checkpoint: Path, folder: Path, tmp_path: Path, cli) -> None:
    Image.open(folder / "one.jpg").save(folder / "one_overlay.jpg")
    assert cli("predict", checkpoint, folder, "--out", tmp_path / "out")[0] == 0
    code, _, err = cli("predict", checkpoint, folder, "--out", tmp_path / "out2", "--overlay")
    assert code == 2 and "one.jpg would take the place of another mask" in err


def test_masks_may_go_beside_the_photographs_folder(checkpoint: Path, folder: Path, cli) -> None:
    code, out, err = cli("predict", checkpoint, folder, "--out", folder.parent)
    assert code == 0 and out.startswith("2 of 2 masks"), err


def test_masks_of_an_earlier_run_are_no_photographs(checkpoint: Path, folder: Path, cli) -> None:
    for _ in range(2):
        code, out, err = cli("predict", checkpoint, folder, "--out", folder / "masks")
        assert code == 0 and out.startswith("2 of 2 masks"), err


def test_a_second_run_passes_over_what_is_done(checkpoint: Path, folder: Path, tmp_path: Path, cli) -> None:
    out = tmp_path / "out"
    cli("predict", checkpoint, folder, "--out", out)
    (out / "one.png").write_bytes(b"kept")
    (out / "a" / "b" / "two.png").unlink()
    code, told, _ = cli("predict", checkpoint, folder, "--out", out)
    assert code == 0 and told.startswith("2 of 2 masks") and "1 of them from before (--force makes them anew)" in told
    assert (out / "one.png").read_bytes() == b"kept" and (out / "a" / "b" / "two.png").is_file()
    assert cli("predict", checkpoint, folder, "--out", out, "--force")[0] == 0
    assert (out / "one.png").read_bytes() != b"kept"


def test_an_overlay_that_is_missing_is_made(checkpoint: Path, folder: Path, tmp_path: Path, cli) -> None:
    for flags in ((), ("--overlay",)):
        assert cli("predict", checkpoint, folder, "--out", tmp_path / "out", *flags)[0] == 0
    assert (tmp_path / "out" / "one_overlay.png").is_file()


@pytest.mark.parametrize("other", [("--ids", "label"), ("--flip",), ("--resolution", "native")])
def test_masks_made_otherwise_are_made_anew(checkpoint: Path, folder: Path, tmp_path: Path, cli, other) -> None:
    cli("predict", checkpoint, folder, "--out", tmp_path / "out")
    told = cli("predict", checkpoint, folder, "--out", tmp_path / "out", *other)[1]
    assert told.startswith("2 of 2 masks") and "from before" not in told
    assert "2 of them from before" in cli("predict", checkpoint, folder, "--out", tmp_path / "out", *other)[1]


def test_masks_of_another_checkpoint_are_made_anew(checkpoint: Path, folder: Path, tmp_path: Path, cli) -> None:
    cli("predict", checkpoint, folder, "--out", tmp_path / "out")
    other = make_checkpoint(tmp_path / "other.safetensors", seed=5)
    assert "from before" not in cli("predict", other, folder, "--out", tmp_path / "out")[1]
    written = np.asarray(Image.open(tmp_path / "out" / "one.png"))
    assert np.array_equal(written, Segmenter(other)(folder / "one.jpg").labels)


def test_a_photograph_that_has_changed_is_segmented_anew(checkpoint: Path, folder: Path, tmp_path: Path, cli) -> None:
    cli("predict", checkpoint, folder, "--out", tmp_path / "out")
    Image.open(folder / "one.jpg").rotate(180).save(folder / "one.jpg")
    assert "1 of them from before" in cli("predict", checkpoint, folder, "--out", tmp_path / "out")[1]


def test_a_note_that_was_cut_off_costs_a_mask_and_no_more(checkpoint: Path, folder: Path, tmp_path: Path, cli) -> None:
    cli("predict", checkpoint, folder, "--out", tmp_path / "out")
    note = tmp_path / "out" / ".predict.jsonl"
    note.write_bytes(note.read_bytes()[:-10])
    assert "1 of them from before" in cli("predict", checkpoint, folder, "--out", tmp_path / "out")[1]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("*.jpg", {"one.png"}), ("**/*.png", {"a/b/two.png"}), ("a/?/*", {"b/two.png"}), ("**/*", {"one.png", "a/b/two.png"})],
)
def test_a_pattern_that_the_shell_has_left_as_it_is(
    checkpoint: Path, folder: Path, tmp_path: Path, cli, pattern: str, expected: set[str]
) -> None:
    assert cli("predict", checkpoint, folder / pattern, "--out", tmp_path / "out")[0] == 0
    assert files(tmp_path / "out") == expected
    code, _, err = cli("predict", checkpoint, folder / "*.webp", "--out", tmp_path / "out")
    assert code == 2 and "no photograph and no film has such a name" in err


@pytest.mark.parametrize("ids", ["train", "label"])
def test_json_tells_sizes_and_shares_of_new_and_earlier_masks(
    checkpoint: Path, folder: Path, tmp_path: Path, cli, ids: str
) -> None:
    (folder / "bad.jpg").write_bytes(b"nothing")
    out, path = tmp_path / "out", tmp_path / "told.json"
    cli("predict", checkpoint, folder / "one.jpg", "--out", out, "--ids", ids)
    assert cli("predict", checkpoint, folder, "--out", out, "--json", path, "--ids", ids)[0] == 1
    told = json.loads(path.read_text())
    assert told["digest"] == read_checkpoint(checkpoint).digest and told["ids"] == ids
    by_name = {Path(each["file"]).name: each for each in told["files"]}
    assert "not a picture" in by_name["bad.jpg"]["error"]
    for name, source in (("one.jpg", folder / "one.jpg"), ("two.png", folder / "a" / "b" / "two.png")):
        result = Segmenter(checkpoint)(source)
        assert by_name[name]["size"] == list(result.size) and by_name[name]["shares"] == result.shares


def test_a_mask_whose_replacement_was_cut_off_is_not_taken_for_the_old_one(
    checkpoint: Path, folder: Path, tmp_path: Path, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    cli("predict", checkpoint, folder / "one.jpg", "--out", out)
    with monkeypatch.context() as patch:
        noted = Done.add

        def killed(done: Done, job: Job, mark: list, told: dict) -> None:
            if mark:  # the mask is there, and not yet noted
                raise KeyboardInterrupt
            noted(done, job, mark, told)

        patch.setattr(Done, "add", killed)
        assert cli("predict", checkpoint, folder / "one.jpg", "--out", out, "--ids", "label")[0] == 130
    assert "from before" not in cli("predict", checkpoint, folder / "one.jpg", "--out", out)[1]
    assert np.array_equal(np.asarray(Image.open(out / "one.png")), Segmenter(checkpoint)(folder / "one.jpg").labels)


def test_a_file_named_twice_is_predicted_once(checkpoint: Path, folder: Path, tmp_path: Path, cli) -> None:
    out = cli("predict", checkpoint, folder, folder / "one.jpg", folder / "a", "--out", tmp_path / "out")[1]
    assert out.startswith("2 of 2 masks")


def test_a_link_that_leads_nowhere_is_told_and_passed_over(checkpoint: Path, folder: Path, tmp_path: Path, cli) -> None:
    (folder / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    code, out, err = cli("predict", checkpoint, folder, "--out", tmp_path / "out")
    assert code == 1 and "gone.jpg" in err and "2 of 3 masks" in out


def test_what_is_no_pattern_is_told(checkpoint: Path, folder: Path, tmp_path: Path, cli) -> None:
    code, _, err = cli("predict", checkpoint, f"{folder}/**_left.png", "--out", tmp_path / "out")
    assert code == 2 and "no pattern" in err


def test_masks_that_another_model_made_are_replaced_and_told(checkpoint: Path, scenes: Path, tmp_path: Path, cli) -> None:
    photo = next((scenes / "leftImg8bit" / "val").rglob("*.png"))
    other = make_checkpoint(tmp_path / "other.safetensors", seed=5)
    expected = ((checkpoint, "1 of 1 masks"), (other, "in place of those of another checkpoint"), (other, "from before"))
    for model, told in expected:
        assert told in cli("predict", model, photo, "--out", tmp_path / "masks")[1]
