"""A training run from end to end on tiny scenes: what it leaves, how it goes on, what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from core.backends.torch_cpu import load_state
from core.checkpoints.checkpoint import read_checkpoint
from core.data.datasets import open_dataset
from core.data.labels import CITYSCAPES
from core.errors import InputError
from core.evaluation import metrics
from core.inference.segmenter import How, Segmenter
from core.models import build_model
from tests.conftest import make_checkpoint
from training.__main__ import main
from training.data.loader import EpochBatches
from training.engine.loop import learning_rates
from training.tracking.curves import draw_curves
from training.tracking.run_dir import RunFolder
from training.tracking.tensorboard import legend

TINY = ("--width", 2, "--size", 32, 64, "--batch-size", 2, "--workers", 0)


@pytest.fixture(scope="module")
def run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    arguments = ("train", "--model", "ddunet", "--data", scenes, "--epochs", 2, "--run", folder, *TINY)
    assert main([str(a) for a in arguments]) == 0
    return folder


def history(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_run_folder_is_laid_out_as_the_design_says(run: Path) -> None:
    names = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
    assert {n for n in names if not n.startswith("tensorboard/")} == {
        ".lock",
        "config.json",
        "history.csv",
        "curves.png",
        "checkpoints/epoch-0001.safetensors",
        "checkpoints/epoch-0002.safetensors",
        "checkpoints/best.safetensors",
        "checkpoints/last.safetensors",
        "resume/0001-000000.safetensors",
        "resume/0002-000000.safetensors",
    }


def test_last_and_best_are_hard_links_to_epochs(run: Path) -> None:
    checkpoints = run / "checkpoints"
    assert (checkpoints / "last.safetensors").samefile(checkpoints / "epoch-0002.safetensors")
    best = max(history(run), key=lambda row: float(row["val_macro_iou_labelled"]))
    assert (checkpoints / "best.safetensors").samefile(checkpoints / f"epoch-{int(best['epoch']):04d}.safetensors")


def test_history_has_a_row_an_epoch_with_the_contract_s_columns(run: Path) -> None:
    rows = history(run)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    five = ("accuracy", "sensitivity", "specificity", "dice", "iou")
    scores = {"pixel_accuracy", "macro_iou", "macro_iou_labelled", *(f"{m}_{s}" for m in ("macro", "micro") for s in five)}
    expected = {"epoch", "train_loss", "val_loss", "learning_rate", "images_per_s", "seconds"}
    assert set(rows[0]) == expected | {f"val_{s}" for s in scores} | {f"train_running_{s}" for s in scores}


def test_config_json_holds_the_configuration(run: Path, scenes: Path) -> None:
    config = json.loads((run / "config.json").read_text())["config"]
    assert (config["model"], config["data"], config["size"]) == ("ddunet", str(scenes), [32, 64])


def test_the_card_tells_what_was_trained_and_its_scores(run: Path) -> None:
    card = read_checkpoint(run / "checkpoints" / "last.safetensors").card
    assert (card.architecture.name, card.architecture.width, card.epoch, card.preprocess.mode) == ("ddunet", 2, 2, "fit")
    assert card.scores["macro_iou"] == pytest.approx(float(history(run)[1]["val_macro_iou"]))


def test_the_card_tells_how_it_was_trained(run: Path, scenes: Path) -> None:
    (leg,) = read_checkpoint(run / "checkpoints" / "last.safetensors").card.legs
    assert leg.command == (
        f"python -m training train --model ddunet --data {scenes.name} --epochs 2 --batch-size 2 --size 32 64 --width 2"
    )
    assert (leg.data, leg.images, leg.seed, leg.epochs) == (scenes.name, 6, 0, 2)


def test_a_second_leg_tells_of_the_first(run: Path, scenes: Path, tmp_path: Path, cli) -> None:
    first = run / "checkpoints" / "last.safetensors"
    flags = ("--model", "ddunet", "--data", scenes, "--run", tmp_path / "second", *TINY)
    assert cli("train", *flags, "--init", first, "--seed", 3, "--epochs", 1)[0] == 0
    (tmp_path / "second" / "checkpoints" / "best.safetensors").unlink()
    assert cli("train", "--run", tmp_path / "second", "--resume", "--epochs", 2)[0] == 0
    legs = read_checkpoint(tmp_path / "second/checkpoints/last.safetensors").card.legs
    assert (legs[0], legs[1].seed, legs[1].epochs) == (read_checkpoint(first).card.legs[0], 3, 2)
    assert legs[1].command.endswith(f"--seed 3 --init {'/'.join(first.parts[-4:])}")


def test_evaluate_tells_the_score_that_training_told(run: Path, scenes: Path, tmp_path: Path, cli) -> None:
    last = run / "checkpoints" / "last.safetensors"
    code, out, _ = cli("evaluate", last, "--data", scenes, "--json", tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())
    assert code == 0
    assert report["scores"]["macro_iou"] == pytest.approx(float(history(run)[1]["val_macro_iou"]), abs=1e-12)
    assert f"macro IoU {report['scores']['macro_iou']:.3f}" in out
    assert report["data"] == {"name": scenes.name, "split": "val", "images": 5}


def test_evaluate_at_native_resolution_with_mirror_images_says_so(run: Path, scenes: Path, tmp_path: Path, cli) -> None:
    out = tmp_path / "r.json"
    code, told, _ = cli("evaluate", run, "--data", scenes, "--resolution", "native", "--flip", "--json", out)
    assert code == 0 and "at native resolution, with its mirror image" in told
    report = json.loads(out.read_text())
    assert report["definition"] == {"threshold": None, "at": "label", "resolution": "native", "flip": True}
    segmenter, counts = Segmenter(run), np.zeros((19, 20), np.int64)
    for rgb, labels in open_dataset(scenes, "val"):
        counts += metrics.confusion(labels, segmenter.many([rgb], how=How(native=True, flip=True))[0], 19)
    assert report["confusion"] == counts.tolist()


def test_evaluate_scores_by_the_earlier_definition(run: Path, scenes: Path, tmp_path: Path, cli) -> None:
    """Softmax over a half, at the network's size: counted here pixel by pixel."""
    flags = ("--data", scenes, "--threshold", 0.5, "--score-at", "input", "--json", tmp_path / "r.json")
    code, out, _ = cli("evaluate", run, *flags)
    assert code == 0 and "(softmax > 0.5, at the network's size)" in out
    segmenter, dataset = Segmenter(run), open_dataset(scenes, "val")
    expected = np.zeros((19, 20), np.int64)
    for rgb, labels in dataset:
        logits = segmenter.logits([segmenter.prepare(rgb)])[0]
        likely = torch.from_numpy(logits).softmax(0).numpy()
        small = np.asarray(Image.fromarray(labels).resize(logits.shape[:0:-1], Image.Resampling.NEAREST))
        for y, x in np.argwhere(small != 255):
            over = np.flatnonzero(likely[:, y, x] > 0.5)
            expected[small[y, x], over[0] if over.size else 19] += 1
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["confusion"] == expected.tolist() and expected[:, 19].any()
    assert report["definition"] == {"threshold": 0.5, "at": "input", "resolution": "network", "flip": False}


def test_tensorboard_has_scalars_and_the_strip(run: Path) -> None:
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    assert {"loss/train", "loss/val", "macro_iou/val", "learning_rate"} <= set(board.Tags()["scalars"])
    assert [event.step for event in board.Scalars("loss/train")] == [1, 2]
    assert board.Tags()["images"] == ["photograph, label, prediction"]


def test_tensorboard_has_the_iou_of_each_class_and_the_settings(run: Path, scenes: Path, cli) -> None:
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    assert cli("evaluate", run / "checkpoints" / "last.safetensors", "--data", scenes, "--json", run / "last.json")[0] == 0
    for found in json.loads((run / "last.json").read_text())["classes"]:
        tag = f"iou of classes/{found['name']}"
        assert (found["iou"] is None) == (tag not in board.Tags()["scalars"])
        if found["iou"] is not None:
            assert board.Scalars(tag)[-1].value == pytest.approx(found["iou"], abs=1e-6)
    plugin = board.SummaryMetadata("_hparams_/session_start_info").plugin_data
    settings = HParamsPluginData.FromString(plugin.content).session_start_info.hparams
    assert settings["model"].string_value == "ddunet" and settings["size"].string_value.count("x") == 1
    assert settings["learning_rate"].number_value == pytest.approx(1e-3)


def test_the_legend_has_every_class_in_its_colour() -> None:
    for width in (40, 500, 2000):
        drawn = legend(CITYSCAPES, width)
        assert drawn.shape[1] == width
        colours = {tuple(colour) for colour in np.unique(drawn.reshape(-1, 3), axis=0).tolist()}
        assert set(CITYSCAPES.colours) <= colours


def test_curves_are_a_picture(run: Path) -> None:
    with Image.open(run / "curves.png") as picture:
        assert picture.width > 800


def test_curves_of_epochs_that_follow_at_once_are_left_out(scenes: Path, tmp_path: Path, cli, monkeypatch) -> None:
    drawn: list[int] = []

    def noted(rows: list, *rest: object) -> None:
        drawn.append(len(rows))
        draw_curves(rows, *rest)

    monkeypatch.setattr("training.tracking.recorder.draw_curves", noted)
    monkeypatch.setattr("training.tracking.recorder.DRAWING_SHARE", 1e-6)
    assert cli("train", "--model", "ddunet", "--data", scenes, "--epochs", 4, "--run", tmp_path / "r", *TINY)[0] == 0
    assert drawn == [1, 4]


def test_the_loss_falls(scenes: Path, tmp_path: Path, cli) -> None:
    flags = ("--epochs", 5, "--run", tmp_path / "r", "--width", 4, *TINY[2:], "--learning-rate", 0.01)
    assert cli("train", "--model", "ddunet", "--data", scenes, *flags)[0] == 0
    rows = history(tmp_path / "r")
    losses = [float(row["train_loss"]) for row in rows]
    assert losses[-1] < losses[0] - 0.2


@pytest.mark.parametrize("model", ["unet", "r2unet"])
def test_the_other_models_train_too(scenes: Path, tmp_path: Path, cli, model: str) -> None:
    assert cli("train", "--model", model, "--data", scenes, "--epochs", 1, "--run", tmp_path / "r", *TINY)[0] == 0
    assert read_checkpoint(tmp_path / "r" / "checkpoints" / "best.safetensors").card.architecture.name == model


def test_classic_trains_a_plain_data_set_with_its_own_classes(plain: Path, tmp_path: Path, cli) -> None:
    flags = ("--augment", "classic", "--epochs", 1, "--run", tmp_path / "r", *TINY)
    assert cli("train", "--model", "ddunet", "--data", plain, *flags)[0] == 0
    card = read_checkpoint(tmp_path / "r" / "checkpoints" / "best.safetensors").card
    assert (card.labels.names, card.preprocess.mode) == (("a", "b", "c"), "stretch")


def test_a_resumed_run_ends_as_an_undisturbed_one(scenes: Path, run: Path, tmp_path: Path, cli) -> None:
    folder = tmp_path / "r"
    start = ("train", "--model", "ddunet", "--data", scenes, "--run", folder)
    assert cli(*start, "--epochs", 1, *TINY)[0] == 0
    code, out, _ = cli("train", "--run", folder, "--resume", "--epochs", 2)
    assert code == 0 and "going on after epoch 1" in out
    ours, theirs = (read_checkpoint(f / "checkpoints" / "last.safetensors").tensors for f in (folder, run))
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    timed = ("images_per_s", "seconds")
    assert [{k: v for k, v in row.items() if k not in timed} for row in history(folder)] == [
        {k: v for k, v in row.items() if k not in timed} for row in history(run)
    ]


def test_resume_of_nothing_starts_and_says_so(scenes: Path, tmp_path: Path, cli) -> None:
    flags = ("--epochs", 1, "--run", tmp_path / "r", "--resume", *TINY)
    code, out, _ = cli("train", "--model", "ddunet", "--data", scenes, *flags)
    assert code == 0 and "nothing was written yet; starting from the beginning" in out


def test_resume_takes_the_one_before_a_damaged_file(scenes: Path, tmp_path: Path, cli) -> None:
    folder = tmp_path / "r"
    cli("train", "--model", "ddunet", "--data", scenes, "--run", folder, "--epochs", 2, *TINY)
    newest = folder / "resume" / "0002-000000.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    code, out, _ = cli("train", "--run", folder, "--resume", "--epochs", 2)
    assert code == 0 and "0002-000000.safetensors: not a whole" in out and "going on after epoch 1" in out
    assert [row["epoch"] for row in history(folder)] == ["1", "2"]


def test_a_run_without_a_finished_epoch_may_begin_again_with_other_settings(scenes: Path, tmp_path: Path, cli) -> None:
    folder = tmp_path / "r"
    flags = ("--model", "ddunet", "--data", scenes, "--epochs", 1, "--run", folder, *TINY)
    assert cli("train", *flags)[0] == 0
    for path in (*folder.glob("checkpoints/*"), *folder.glob("resume/*")):
        path.unlink()  # as if it had been stopped in its first epoch
    assert cli("train", "--run", folder, "--resume", "--width", 3)[0] == 0
    assert read_checkpoint(folder / "checkpoints" / "last.safetensors").card.architecture.width == 3
    for path in (*folder.glob("checkpoints/*"), *folder.glob("resume/*")):
        path.unlink()
    assert cli("train", *flags)[0] == 0
    assert len(history(folder)) == 1


def test_a_finished_run_says_so(run: Path, cli) -> None:
    code, out, _ = cli("train", "--run", run, "--resume")
    assert code == 0 and "has its 2 epochs already; a larger --epochs goes on" in out


def test_keep_deletes_old_epochs_and_never_the_best(scenes: Path, tmp_path: Path, cli) -> None:
    folder = tmp_path / "r"
    cli("train", "--model", "ddunet", "--data", scenes, "--run", folder, "--epochs", 3, "--keep", 1, *TINY)
    names = sorted(p.name for p in (folder / "checkpoints").iterdir())
    assert names == ["best.safetensors", "epoch-0003.safetensors", "last.safetensors"]


def test_init_takes_the_weights_and_a_new_head_for_new_classes(plain: Path, tmp_path: Path, cli) -> None:
    source = make_checkpoint(tmp_path / "source.safetensors", width=2)
    flags = ("--init", source, "--epochs", 1, "--learning-rate", 1e-12, "--run", tmp_path / "r", *TINY)
    assert cli("train", "--model", "ddunet", "--data", plain, *flags)[0] == 0
    before, after = read_checkpoint(source).tensors, read_checkpoint(tmp_path / "r/checkpoints/last.safetensors").tensors
    assert after["head.weight"].shape[0] == 3
    assert np.allclose(before["encoder.0.0.0.weight"], after["encoder.0.0.0.weight"], atol=1e-6)


def test_weight_decay_shrinks_the_weights_by_its_share_each_step(scenes: Path, tmp_path: Path, cli) -> None:
    """Three steps, each by the learning rate times the decay: a tenth; the gradients' own steps are a thousandth."""
    source = make_checkpoint(tmp_path / "source.safetensors", width=2)
    flags = ("--model", "ddunet", "--data", scenes, "--init", source, "--epochs", 1, "--learning-rate", 1e-6, *TINY)
    assert cli("train", *flags, "--weight-decay", 1e5, "--run", tmp_path / "r")[0] == 0
    before, after = read_checkpoint(source).tensors, read_checkpoint(tmp_path / "r/checkpoints/last.safetensors").tensors
    for name in ("head.weight", "encoder.0.0.0.weight"):
        assert np.allclose(after[name], 0.9**3 * before[name], atol=1e-5)


def test_init_for_as_many_other_classes_has_a_new_head_too(checkpoint: Path) -> None:
    torch.manual_seed(1)
    network = build_model("ddunet", 19, 4)
    fresh = load_state(network, read_checkpoint(checkpoint), new_head=True)
    theirs = read_checkpoint(checkpoint).tensors
    assert fresh == ["head.bias", "head.weight"]
    assert not np.array_equal(network.state_dict()["head.weight"].numpy(), theirs["head.weight"])
    assert np.array_equal(network.state_dict()["encoder.0.0.0.weight"].numpy(), theirs["encoder.0.0.0.weight"])


def test_a_run_goes_on_without_the_checkpoint_that_it_began_with(scenes: Path, tmp_path: Path, cli) -> None:
    source = make_checkpoint(tmp_path / "source.safetensors", width=2)
    flags = ("--data", scenes, "--init", source, "--epochs", 1, "--run", tmp_path / "r", *TINY)
    assert cli("train", "--model", "ddunet", *flags)[0] == 0
    source.unlink()
    assert cli("train", "--run", tmp_path / "r", "--resume", "--epochs", 2)[0] == 0


def test_the_environment_does_not_contradict_a_resumed_run(
    scenes: Path, tmp_path: Path, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("train", "--model", "ddunet", "--data", scenes, "--epochs", 1, "--run", tmp_path / "r", *TINY)[0] == 0
    monkeypatch.setenv("TRAIN_DATA", "/somewhere/else")
    assert cli("train", "--run", tmp_path / "r", "--resume", "--epochs", 2)[0] == 0
    assert "no such data folder" in wrong(cli, "train", "--run", tmp_path / "r", "--resume", "--data", "/somewhere/else")


def test_nothing_whole_to_go_on_from_is_exit_1_and_no_fresh_start(scenes: Path, tmp_path: Path, cli) -> None:
    folder = tmp_path / "r"
    assert cli("train", "--model", "ddunet", "--data", scenes, "--epochs", 1, "--run", folder, *TINY)[0] == 0
    before = history(folder)
    for path in (folder / "resume").iterdir():
        path.write_bytes(b"torn")
    code, _, err = cli("train", "--run", folder, "--resume", "--epochs", 2)
    assert code == 1 and "none of its 1 files is whole" in err and err.count("\n") == 1
    assert history(folder) == before


def test_epochs_are_ordered_by_number_and_not_by_text(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.resume.mkdir()
    for epoch in (9998, 9999, 10000):
        folder.save_resume(epoch, 0, {"epoch": epoch}, {})
    assert sorted(p.stem for p in folder.resume.iterdir()) == ["10000-000000", "9999-000000"]
    _, document, _ = folder.newest_resume() or (None, {}, {})
    assert document["epoch"] == 10000


def test_a_photograph_that_breaks_later_is_named_in_one_line(plain: Path, tmp_path: Path, cli) -> None:
    from training.commands import train as command

    prepare = command.prepare

    def prepare_and_break(*arguments: object, **others: object) -> object:
        survey = prepare(*arguments, **others)  # type: ignore[arg-type]
        (plain / "images" / "train" / "1.jpg").write_bytes(b"\xff\xd8\xff")
        return survey

    flags = ("--batch-size", 2, "--width", 2, "--size", 32, 64, "--cache", "none", "--run", tmp_path / "r")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "prepare", prepare_and_break)
        code, _, err = cli("train", "--model", "ddunet", "--data", plain, *flags)
    last = err.rsplit("\r")[-1]  # behind the progress bar
    assert code == 2 and last.startswith(f"error: {plain}/images/train/1.jpg: the picture is damaged") and last.count("\n") == 1


def test_each_step_has_its_learning_rate() -> None:
    assert learning_rates("constant", 0.1, 3, 10, 4) == [0.1] * 4
    rates = [rate for epoch in (1, 2) for rate in learning_rates("cosine", 0.1, epoch, 2, 50)]
    assert rates[0] == 0.1 and rates[50] == pytest.approx(0.05) and rates[-1] < 1e-4
    assert rates == sorted(rates, reverse=True)


def test_an_epoch_takes_every_sample_once_but_the_last_short_batch() -> None:
    batches = EpochBatches(21, 4, seed=0)
    first = [index for batch in batches.mine(1) for index in batch]
    assert len(first) == len(set(first)) == 20 and batches.dropped == 1
    assert first != [index for batch in batches.mine(2) for index in batch]


def test_ranks_share_each_global_batch() -> None:
    whole = EpochBatches(20, 4, seed=3).mine(1)
    shares = [EpochBatches(20, 4, 3, rank, 2).mine(1) for rank in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == [sorted(batch) for batch in whole]


def test_more_ranks_than_samples_is_told() -> None:
    with pytest.raises(InputError, match="2 samples for 3 processes"):
        EpochBatches(20, 2, 0, 0, 3)


def wrong(cli, *arguments: object) -> str:
    code, _, err = cli(*arguments)
    assert code == 2
    err = err.rsplit("\r")[-1]  # behind a progress bar
    assert err.startswith("error: ") and err.count("\n") == 1
    return err


class TestWrongUse:
    """Exit 2 and one line."""

    def test_a_folder_that_holds_a_run(self, run: Path, scenes: Path, cli) -> None:
        assert "--resume" in wrong(cli, "train", "--model", "ddunet", "--data", scenes, "--run", run)

    def test_another_setting_at_resume(self, run: Path, cli) -> None:
        assert "--width" in wrong(cli, "train", "--run", run, "--resume", "--width", 3)

    def test_no_such_data_folder(self, tmp_path: Path, cli) -> None:
        error = wrong(cli, "train", "--model", "unet", "--data", tmp_path / "none", "--run", tmp_path / "r")
        assert "no such data folder" in error and "leftImg8bit" in error

    def test_unknown_model(self, cli) -> None:
        assert "known: unet, r2unet, ddunet" in wrong(cli, "train", "--model", "vgg", "--data", "x")

    def test_a_gpu_that_is_not_there(self, scenes: Path, tmp_path: Path, cli) -> None:
        flags = ("--gpus", 1, "--run", tmp_path / "r", *TINY)
        assert "--gpus: 1 asked for" in wrong(cli, "train", "--model", "unet", "--data", scenes, *flags)

    def test_unknown_flag(self, cli) -> None:
        assert "training train --help" in wrong(cli, "train", "--colour", "red")
        assert "--colour" in wrong(cli, "train", "--colour", "red")

    def test_unknown_flag_before_the_command(self, cli) -> None:
        assert "--colour: not known here; python -m training train --help" in wrong(cli, "--colour", "train", "--model", "unet")

    def test_a_flag_that_only_begins_like_one(self, cli) -> None:
        error = wrong(cli, "train", "--model", "unet", "--learning-rat", "0.1")
        assert "--learning-rat: not known here (did you mean --learning-rate?)" in error

    def test_more_samples_a_batch_than_there_are(self, scenes: Path, tmp_path: Path, cli) -> None:
        error = wrong(cli, "train", "--model", "unet", "--data", scenes, "--run", tmp_path / "r", "--batch-size", 7)
        assert "--batch-size" in error and "6" in error

    def test_one_value_for_batch_norm(self, scenes: Path, tmp_path: Path, cli) -> None:
        flags = ("--batch-size", 1, "--size", 16, 16, "--run", tmp_path / "r")
        assert "--size" in wrong(cli, "train", "--model", "unet", "--data", scenes, *flags)

    def test_a_checkpoint_that_is_not_one(self, scenes: Path, tmp_path: Path, cli) -> None:
        path = tmp_path / "page.safetensors"
        path.write_text("<html>")
        assert "page.safetensors" in wrong(cli, "evaluate", path, "--data", scenes)

    def test_init_from_another_architecture(self, scenes: Path, checkpoint: Path, tmp_path: Path, cli) -> None:
        flags = ("--init", checkpoint, "--run", tmp_path / "r", "--batch-size", 2)
        assert "--init" in wrong(cli, "train", "--model", "unet", "--data", scenes, *flags)

    def test_other_classes_at_evaluation(self, checkpoint: Path, plain: Path, cli) -> None:
        assert "the model has 19 classes" in wrong(cli, "evaluate", checkpoint, "--data", plain)

    def test_label_values_outside_the_label_space(self, plain: Path, tmp_path: Path, cli) -> None:
        Image.fromarray(np.full((48, 64), 9, np.uint8)).save(plain / "labels" / "train" / "0.png")
        error = wrong(cli, "train", "--model", "unet", "--data", plain, "--run", tmp_path / "r", "--batch-size", 2)
        assert "labels/train/0.png" in error and "9" in error

    def test_a_file_where_the_run_folder_should_be(self, scenes: Path, tmp_path: Path, cli) -> None:
        (tmp_path / "file").touch()
        for path in (tmp_path / "file", tmp_path / "file" / "r"):
            assert "is a file" in wrong(cli, "train", "--model", "unet", "--data", scenes, "--run", path)

    def test_a_folder_where_the_report_should_be(self, checkpoint: Path, scenes: Path, tmp_path: Path, cli) -> None:
        assert "--json" in wrong(cli, "evaluate", checkpoint, "--data", scenes, "--json", tmp_path)

    def test_a_file_where_a_folder_should_be(self, checkpoint: Path, scenes: Path, tmp_path: Path, cli) -> None:
        (tmp_path / "file").touch()
        assert "is a file" in wrong(cli, "synthesize", tmp_path / "file" / "x")
        assert "is a file" in wrong(cli, "predict", checkpoint, scenes, "--out", tmp_path / "file")

    def test_scores_at_the_network_s_size_of_native_resolution(self, checkpoint: Path, scenes: Path, cli) -> None:
        flags = ("--resolution", "native", "--score-at", "input")
        assert "--score-at input: at native resolution" in wrong(cli, "evaluate", checkpoint, "--data", scenes, *flags)

    @pytest.mark.parametrize("value", ["0.4", "1", "nan"])
    def test_a_threshold_that_two_classes_can_pass(self, value: str, checkpoint: Path, scenes: Path, cli) -> None:
        assert "--threshold: expected 0.5 or more" in wrong(cli, "evaluate", checkpoint, "--data", scenes, "--threshold", value)

    def test_a_device_that_is_not_there(self, checkpoint: Path, scenes: Path, cli) -> None:
        for device in ("cuda", "cuda:7", "cpu:3", "tpu"):
            assert f"no device '{device}'" in wrong(cli, "evaluate", checkpoint, "--data", scenes, "--device", device)

    def test_a_truncated_photograph_is_told_before_the_first_epoch(self, plain: Path, tmp_path: Path, cli) -> None:
        path = plain / "images" / "train" / "0.jpg"
        path.write_bytes(path.read_bytes()[:-40])
        assert "0.jpg: the picture is damaged" in wrong(
            cli, "train", "--model", "unet", "--data", plain, "--batch-size", 2, "--run", tmp_path / "r"
        )

    def test_an_image_without_label(self, plain: Path, tmp_path: Path, cli) -> None:
        (plain / "labels" / "val" / "0.png").unlink()
        assert "0.jpg has no label" in wrong(cli, "train", "--model", "unet", "--data", plain, "--run", tmp_path / "r")


def test_nothing_is_written_where_the_input_is_wrong(plain: Path, tmp_path: Path, cli) -> None:
    (plain / "labels" / "val" / "0.png").unlink()
    cli("train", "--model", "unet", "--data", plain, "--run", tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_synthetic_needs_no_folder(tmp_path: Path, cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.data.training_data.SIZES", {"train": 4, "val": 2})
    flags = ("--epochs", 1, "--run", tmp_path / "r", *TINY)
    code, out, _ = cli("train", "--model", "ddunet", "--data", "synthetic", *flags)
    assert code == 0 and "synthetic: 4 training and 2 validation images, 19 classes" in out
