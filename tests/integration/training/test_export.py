"""A checkpoint to pass on: half the size, the same masks, and a card that tells where it comes from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from core.checkpoints.checkpoint import PRETRAINED, read_checkpoint, shipped, write_checkpoint
from core.data.datasets import open_dataset
from core.inference.segmenter import Segmenter
from training.__main__ import main
from training.commands import export
from training.tracking.history import read_rows, read_table, write_table

TINY = ("--width", 8, "--size", 32, 64, "--batch-size", 2, "--workers", 0, "--epochs", 2)


@pytest.fixture(scope="module")
def run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main([str(a) for a in ("train", "--model", "r2unet", "--data", scenes, "--run", folder, *TINY)]) == 0
    return folder


@pytest.fixture
def exported(run: Path, scenes: Path, tmp_path: Path, cli) -> Path:
    out = tmp_path / "small.safetensors"
    flags = ("--to", "fp16", "--data", scenes, "--licence", "for research", "--limits", "scenes only")
    assert cli("export", run, "--out", out, *flags)[0] == 0
    return out


def test_the_file_is_about_half_and_the_statistics_stay(run: Path, exported: Path) -> None:
    whole = run / "checkpoints" / "best.safetensors"
    assert exported.stat().st_size < 0.6 * whole.stat().st_size
    before, after = read_checkpoint(whole).tensors, read_checkpoint(exported).tensors
    for name, array in after.items():
        assert array.dtype == (np.float16 if array.ndim > 1 else before[name].dtype)
        assert np.allclose(array, before[name], rtol=1e-3, atol=1e-6)
    assert any("running_var" in name and array.dtype == np.float32 for name, array in after.items())


def test_it_segments_as_before(run: Path, exported: Path, scenes: Path) -> None:
    before, after = Segmenter(run), Segmenter(exported)
    same = [(before(rgb).labels == after(rgb).labels).mean() for rgb, _ in open_dataset(scenes, "val")]
    assert min(same) > 0.99


def test_the_card_tells_licence_limits_hours_and_scores_of_the_file(exported: Path, scenes: Path, tmp_path: Path, cli) -> None:
    card = read_checkpoint(exported).card
    assert (card.licence, card.limits) == ("for research", "scenes only")
    assert card.scored_on == f"{scenes.name} val, 5 images"
    assert card.legs[0].hours is not None and card.legs[0].command.startswith("python -m training train --model r2unet")
    assert cli("evaluate", exported, "--data", scenes, "--json", tmp_path / "r.json")[0] == 0
    assert card.scores["macro_iou"] == json.loads((tmp_path / "r.json").read_text())["scores"]["macro_iou"]


def test_the_history_goes_with_it(run: Path, exported: Path) -> None:
    assert exported.with_name("small.history.csv").read_text() == (run / "history.csv").read_text()


def test_a_weight_that_fp16_cannot_hold_is_refused(run: Path, tmp_path: Path, cli) -> None:
    source = read_checkpoint(run / "checkpoints" / "best.safetensors")
    tensors = {**source.tensors, "head.weight": source.tensors["head.weight"] * 1e9}
    write_checkpoint(tmp_path / "large.safetensors", source.card, tensors)
    code, _, err = cli("export", tmp_path / "large.safetensors", "--to", "fp16", "--out", tmp_path / "x.safetensors")
    assert code == 2 and "head.weight" in err and "65504" in err and not (tmp_path / "x.safetensors").exists()


def test_a_checkpoint_does_not_replace_itself(run: Path, cli) -> None:
    best = run / "checkpoints" / "best.safetensors"
    code, _, err = cli("export", best, "--to", "fp16", "--out", best)
    assert code == 2 and "itself" in err


def test_another_ending_is_refused(run: Path, tmp_path: Path, cli) -> None:
    code, _, err = cli("export", run, "--to", "fp16", "--out", tmp_path / "x.pt")
    assert code == 2 and ".safetensors" in err


def test_the_epochs_of_both_legs_go_with_the_second(exported: Path, scenes: Path, tmp_path: Path, cli) -> None:
    second = tmp_path / "second"
    flags = ("--model", "r2unet", "--data", scenes, "--init", exported, "--run", second, *TINY, "--epochs", 3)
    assert cli("train", *flags)[0] == 0
    for path in (second / "history.earlier.csv", second / "history.csv"):
        rows, names = read_table(path)
        write_table(path, [{**row, "seconds": 3600 * int(row["epoch"])} for row in rows], names)
    assert cli("export", second, "--to", "fp16", "--out", tmp_path / "both.safetensors")[0] == 0
    rows = read_rows(tmp_path / "both.history.csv")
    assert [row["epoch"] for row in rows] == [1, 2, 1, 2, 3]
    legs = read_checkpoint(tmp_path / "both.safetensors").card.legs
    assert len(legs) == 2 and legs[0].hours is not None
    assert legs[1].hours == 1 + 2 + 3  # whichever epoch was the best
    assert cli("compare", second, "--data", scenes, "--out", tmp_path / "page", "--training-steps", 0)[0] == 0
    (model,) = json.loads((tmp_path / "page" / "report.json").read_text())["models"]
    assert model["history"] == rows


def test_the_hours_of_a_leg_that_was_never_exported_are_told_too(run: Path, scenes: Path, tmp_path: Path, cli) -> None:
    second = tmp_path / "second"
    assert cli("train", "--model", "r2unet", "--data", scenes, "--init", run, "--run", second, *TINY)[0] == 0
    for path, hours in ((second / "history.earlier.csv", 2), (second / "history.csv", 1)):
        rows, names = read_table(path)
        write_table(path, [{**row, "seconds": 3600 * hours} for row in rows], names)
    assert cli("export", second, "--to", "fp16", "--out", tmp_path / "both.safetensors")[0] == 0
    assert [leg.hours for leg in read_checkpoint(tmp_path / "both.safetensors").card.legs] == [2 * 2, 2 * 1]


def test_a_history_that_is_none_is_told_before_training(exported: Path, scenes: Path, tmp_path: Path, cli) -> None:
    exported.with_name("small.history.csv").write_text("epoch,loss\n,1\n")
    code, _, err = cli("train", "--model", "r2unet", "--data", scenes, "--init", exported, "--run", tmp_path / "second", *TINY)
    assert code == 2 and "small.history.csv: not the history of a run" in err and not (tmp_path / "second").exists()


@pytest.mark.parametrize("named", ["ddunet", "core/pretrained/ddunet.safetensors"])
def test_one_that_ships_is_not_joined_by_another(cli, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.chdir(PRETRAINED.parents[1])
    before = shipped()
    code, _, err = cli("export", named, "--to", "fp16")
    assert code == 2 and "--out" in err and shipped() == before


def test_its_scores_are_of_its_own_weights_and_not_of_an_artefact_beside_the_source(
    run: Path, scenes: Path, tmp_path: Path, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = tmp_path / "copied.safetensors"
    shutil.copy(run / "checkpoints" / "best.safetensors", copied)
    assert cli("export", copied, "--fp32")[0] == 0
    ran: list[str] = []
    scored = export.evaluate
    monkeypatch.setattr(export, "evaluate", lambda c, s, *more: [ran.append(s.backend.name), scored(c, s, *more)][1])
    assert cli("export", copied, "--to", "fp16", "--data", scenes, "--out", tmp_path / "half.safetensors")[0] == 0
    assert ran == ["torch"]
