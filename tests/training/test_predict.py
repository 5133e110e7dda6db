"""`predict`: a mask for every photograph, at its place in the tree."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from core.images import read_photo
from core.labels import CITYSCAPES
from core.segmenter import Segmenter


@pytest.fixture
def folder(tmp_path: Path, photo: np.ndarray) -> Path:
    root = tmp_path / "photos"
    (root / "a" / "b").mkdir(parents=True)
    Image.fromarray(photo).save(root / "one.jpg")
    Image.fromarray(photo[:31, :77]).save(root / "a" / "b" / "two.png")
    return root


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_a_folder_s_tree_is_kept(checkpoint: Path, folder: Path, tmp_path: Path, cli) -> None:
    code, out, _ = cli("predict", checkpoint, folder, "--out", tmp_path / "out", "--overlay")
    assert code == 0 and "2 of 2 masks" in out
    assert files(tmp_path / "out") == {"one.png", "one_overlay.png", "a/b/two.png", "a/b/two_overlay.png"}


def test_a_mask_holds_the_segmenter_s_indices(checkpoint: Path, folder: Path, tmp_path: Path, cli) -> None:
    cli("predict", checkpoint, folder / "one.jpg", "--out", tmp_path / "out")
    expected = Segmenter(checkpoint)(read_photo(folder / "one.jpg"))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "one.png")), expected)


def test_label_ids_are_what_the_official_scripts_want(checkpoint: Path, folder: Path, tmp_path: Path, cli) -> None:
    cli("predict", checkpoint, folder / "one.jpg", "--out", tmp_path / "out", "--ids", "label")
    written = cv2.imread(str(tmp_path / "out" / "one.png"), cv2.IMREAD_UNCHANGED)
    assert written.dtype == np.uint8
    assert np.array_equal(written, CITYSCAPES.decode(Segmenter(checkpoint)(read_photo(folder / "one.jpg"))))


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
