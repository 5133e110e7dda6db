"""Tests of `python -m training train`: files of a run, training options, and resuming."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from core.checkpoints.checkpoint import read_checkpoint
from tests.support.checkpoints import make_checkpoint
from tests.support.cli import Cli, usage_error
from tests.support.runs import read_history
from training.__main__ import main
from training.tracking.curves import draw_curves

TINY = ("--width", 2, "--size", 32, 64, "--batch-size", 2, "--workers", 0)


def test_run_dir_has_documented_files(finished_run: Path) -> None:
    names = {p.relative_to(finished_run).as_posix() for p in finished_run.rglob("*") if p.is_file()}
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


def test_last_and_best_are_hard_links_to_epochs(finished_run: Path) -> None:
    checkpoints = finished_run / "checkpoints"
    assert (checkpoints / "last.safetensors").samefile(checkpoints / "epoch-0002.safetensors")
    best = max(read_history(finished_run), key=lambda row: float(row["val_miou_present"]))
    assert (checkpoints / "best.safetensors").samefile(checkpoints / f"epoch-{int(best['epoch']):04d}.safetensors")


def test_history_has_documented_columns_and_one_row_per_epoch(finished_run: Path) -> None:
    rows = read_history(finished_run)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    per_class = ("accuracy", "sensitivity", "specificity", "dice", "iou")
    averages = {f"{average}_{score}" for average in ("macro", "micro") for score in per_class} - {"macro_iou"}  # named miou
    scores = {"pixel_accuracy", "miou", "miou_present", *averages}
    expected = {"epoch", "train_loss", "val_loss", "learning_rate", "images_per_s", "seconds"}
    assert set(rows[0]) == expected | {f"val_{s}" for s in scores} | {f"train_running_{s}" for s in scores}


def test_config_json_contains_settings(finished_run: Path, scenes: Path) -> None:
    config = json.loads((finished_run / "config.json").read_text())["config"]
    assert (config["model"], config["data"], config["size"]) == ("ddunet", str(scenes), [32, 64])


def test_checkpoint_metadata_describes_model_and_scores(finished_run: Path) -> None:
    metadata = read_checkpoint(finished_run / "checkpoints" / "last.safetensors").metadata
    architecture = metadata.architecture
    assert (architecture.name, architecture.width, metadata.epoch, metadata.preprocess.mode) == ("ddunet", 2, 2, "fit")
    assert metadata.scores["miou"] == pytest.approx(float(read_history(finished_run)[1]["val_miou"]))


def test_checkpoint_metadata_describes_training_stage(finished_run: Path, scenes: Path) -> None:
    (stage,) = read_checkpoint(finished_run / "checkpoints" / "last.safetensors").metadata.stages
    assert stage.command == (
        f"python -m training train --model ddunet --data {scenes.name} --epochs 2 --batch-size 2 --size 32 64 --width 2"
    )
    assert (stage.data, stage.images, stage.seed, stage.epochs) == (scenes.name, 6, 0, 2)


def test_init_appends_training_stage(finished_run: Path, scenes: Path, tmp_path: Path, cli: Cli) -> None:
    first = finished_run / "checkpoints" / "last.safetensors"
    flags = ("--model", "ddunet", "--data", scenes, "--run", tmp_path / "second", *TINY)
    assert cli("train", *flags, "--init", first, "--seed", 3, "--epochs", 1)[0] == 0
    (tmp_path / "second" / "checkpoints" / "best.safetensors").unlink()
    assert cli("train", "--run", tmp_path / "second", "--resume", "--epochs", 2)[0] == 0
    stages = read_checkpoint(tmp_path / "second/checkpoints/last.safetensors").metadata.stages
    assert (stages[0], stages[1].seed, stages[1].epochs) == (read_checkpoint(first).metadata.stages[0], 3, 2)
    assert stages[1].command.endswith(f"--seed 3 --init {'/'.join(first.parts[-4:])}")


def test_tensorboard_has_scalars_and_sample_image(finished_run: Path) -> None:
    events = EventAccumulator(str(finished_run / "tensorboard"))
    events.Reload()
    assert {"loss/train", "loss/val", "miou/val", "learning_rate"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss/train")] == [1, 2]
    assert events.Tags()["images"] == ["image, label, prediction"]


def test_tensorboard_has_class_iou_and_settings(finished_run: Path, scenes: Path, tmp_path: Path, cli: Cli) -> None:
    events = EventAccumulator(str(finished_run / "tensorboard"))
    events.Reload()
    last, report = finished_run / "checkpoints" / "last.safetensors", tmp_path / "report.json"
    assert cli("evaluate", last, "--data", scenes, "--json", report)[0] == 0
    for score in json.loads(report.read_text())["classes"]:
        tag = f"iou of classes/{score['name']}"
        assert (score["iou"] is None) == (tag not in events.Tags()["scalars"])
        if score["iou"] is not None:
            assert events.Scalars(tag)[-1].value == pytest.approx(score["iou"], abs=1e-6)
    plugin = events.SummaryMetadata("_hparams_/session_start_info").plugin_data
    settings = HParamsPluginData.FromString(plugin.content).session_start_info.hparams
    assert settings["model"].string_value == "ddunet" and settings["size"].string_value.count("x") == 1
    assert settings["learning_rate"].number_value == pytest.approx(1e-3)


def test_curves_are_an_image(finished_run: Path) -> None:
    with Image.open(finished_run / "curves.png") as image:
        assert image.width > 800


def test_curves_are_not_redrawn_after_short_epochs(scenes: Path, tmp_path: Path, cli: Cli, monkeypatch) -> None:
    row_counts: list[int] = []

    def record_and_draw(rows: list, *rest: object) -> None:
        row_counts.append(len(rows))
        draw_curves(rows, *rest)

    monkeypatch.setattr("training.tracking.recorder.draw_curves", record_and_draw)
    monkeypatch.setattr("training.tracking.recorder.MAX_PLOT_FRACTION", 1e-6)
    assert cli("train", "--model", "ddunet", "--data", scenes, "--epochs", 4, "--run", tmp_path / "r", *TINY)[0] == 0
    assert row_counts == [2, 4]


def test_loss_decreases(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    flags = ("--epochs", 5, "--run", tmp_path / "r", "--width", 4, *TINY[2:], "--learning-rate", 0.01)
    assert cli("train", "--model", "ddunet", "--data", scenes, *flags)[0] == 0
    rows = read_history(tmp_path / "r")
    losses = [float(row["train_loss"]) for row in rows]
    assert losses[-1] < losses[0] - 0.2


@pytest.mark.parametrize("model", ["unet", "r2unet"])
def test_model_can_be_trained(scenes: Path, tmp_path: Path, cli: Cli, model: str) -> None:
    assert cli("train", "--model", model, "--data", scenes, "--epochs", 1, "--run", tmp_path / "r", *TINY)[0] == 0
    assert read_checkpoint(tmp_path / "r" / "checkpoints" / "best.safetensors").metadata.architecture.name == model


def test_classic_augmentation_trains_on_plain_dataset(plain_dataset: Path, tmp_path: Path, cli: Cli) -> None:
    flags = ("--augment", "classic", "--epochs", 1, "--run", tmp_path / "r", *TINY)
    assert cli("train", "--model", "ddunet", "--data", plain_dataset, *flags)[0] == 0
    metadata = read_checkpoint(tmp_path / "r" / "checkpoints" / "best.safetensors").metadata
    assert (metadata.labels.names, metadata.preprocess.mode) == (("a", "b", "c"), "stretch")


def test_resumed_run_equals_uninterrupted_run(scenes: Path, finished_run: Path, tmp_path: Path, cli: Cli) -> None:
    run_dir = tmp_path / "r"
    start = ("train", "--model", "ddunet", "--data", scenes, "--run", run_dir)
    assert cli(*start, "--epochs", 1, *TINY)[0] == 0
    code, out, _ = cli("train", "--run", run_dir, "--resume", "--epochs", 2)
    assert code == 0 and "resuming after epoch 1" in out
    resumed, uninterrupted = (read_checkpoint(f / "checkpoints" / "last.safetensors").tensors for f in (run_dir, finished_run))
    assert all(np.array_equal(resumed[name], uninterrupted[name]) for name in uninterrupted)
    timings = ("images_per_s", "seconds")
    assert [{k: v for k, v in row.items() if k not in timings} for row in read_history(run_dir)] == [
        {k: v for k, v in row.items() if k not in timings} for row in read_history(finished_run)
    ]


def test_resume_without_resume_file_starts_new_run(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    flags = ("--epochs", 1, "--run", tmp_path / "r", "--resume", *TINY)
    code, out, _ = cli("train", "--model", "ddunet", "--data", scenes, *flags)
    assert code == 0 and "no resume file yet; starting from the beginning" in out


def test_resume_skips_damaged_file(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    run_dir = tmp_path / "r"
    cli("train", "--model", "ddunet", "--data", scenes, "--run", run_dir, "--epochs", 2, *TINY)
    newest = run_dir / "resume" / "0002-000000.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    code, out, _ = cli("train", "--run", run_dir, "--resume", "--epochs", 2)
    assert code == 0 and "0002-000000.safetensors: not a complete" in out and "resuming after epoch 1" in out
    assert [row["epoch"] for row in read_history(run_dir)] == ["1", "2"]


def test_run_without_finished_epoch_accepts_other_settings(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    run_dir = tmp_path / "r"
    flags = ("--model", "ddunet", "--data", scenes, "--epochs", 1, "--run", run_dir, *TINY)
    assert cli("train", *flags)[0] == 0
    for path in (*run_dir.glob("checkpoints/*"), *run_dir.glob("resume/*")):
        path.unlink()  # as if the run had stopped in its first epoch
    assert cli("train", "--run", run_dir, "--resume", "--width", 3)[0] == 0
    assert read_checkpoint(run_dir / "checkpoints" / "last.safetensors").metadata.architecture.width == 3
    for path in (*run_dir.glob("checkpoints/*"), *run_dir.glob("resume/*")):
        path.unlink()
    assert cli("train", *flags)[0] == 0
    assert len(read_history(run_dir)) == 1


def test_resume_of_finished_run_reports_completion(finished_run: Path, cli: Cli) -> None:
    code, out, _ = cli("train", "--run", finished_run, "--resume")
    assert code == 0 and "all 2 epochs are complete; increase --epochs to continue" in out


def test_keep_deletes_old_epochs_but_not_best(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    run_dir = tmp_path / "r"
    cli("train", "--model", "ddunet", "--data", scenes, "--run", run_dir, "--epochs", 3, "--keep", 1, *TINY)
    names = sorted(p.name for p in (run_dir / "checkpoints").iterdir())
    assert names == ["best.safetensors", "epoch-0003.safetensors", "last.safetensors"]


def test_init_resets_head_for_other_classes(plain_dataset: Path, tmp_path: Path, cli: Cli) -> None:
    source = make_checkpoint(tmp_path / "source.safetensors", width=2)
    flags = ("--init", source, "--epochs", 1, "--learning-rate", 1e-12, "--run", tmp_path / "r", *TINY)
    assert cli("train", "--model", "ddunet", "--data", plain_dataset, *flags)[0] == 0
    before, after = read_checkpoint(source).tensors, read_checkpoint(tmp_path / "r/checkpoints/last.safetensors").tensors
    assert after["head.weight"].shape[0] == 3
    assert np.allclose(before["encoder.0.0.0.weight"], after["encoder.0.0.0.weight"], atol=1e-6)


def test_weight_decay_scales_weights_at_each_step(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    """Three steps multiply by 1 - learning rate x decay = 0.9; the steps of the gradients are smaller than the tolerance."""
    source = make_checkpoint(tmp_path / "source.safetensors", width=2)
    flags = ("--model", "ddunet", "--data", scenes, "--init", source, "--epochs", 1, "--learning-rate", 1e-6, *TINY)
    assert cli("train", *flags, "--weight-decay", 1e5, "--run", tmp_path / "r")[0] == 0
    before, after = read_checkpoint(source).tensors, read_checkpoint(tmp_path / "r/checkpoints/last.safetensors").tensors
    for name in ("head.weight", "encoder.0.0.0.weight"):
        assert np.allclose(after[name], 0.9**3 * before[name], atol=1e-5)


def test_resume_does_not_need_init_checkpoint(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    source = make_checkpoint(tmp_path / "source.safetensors", width=2)
    flags = ("--data", scenes, "--init", source, "--epochs", 1, "--run", tmp_path / "r", *TINY)
    assert cli("train", "--model", "ddunet", *flags)[0] == 0
    source.unlink()
    assert cli("train", "--run", tmp_path / "r", "--resume", "--epochs", 2)[0] == 0


def test_resume_ignores_environment_but_not_flag(
    scenes: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("train", "--model", "ddunet", "--data", scenes, "--epochs", 1, "--run", tmp_path / "r", *TINY)[0] == 0
    monkeypatch.setenv("TRAIN_DATA", "/somewhere/else")
    assert cli("train", "--run", tmp_path / "r", "--resume", "--epochs", 2)[0] == 0
    assert "no such data directory" in usage_error(
        cli, "train", "--run", tmp_path / "r", "--resume", "--data", "/somewhere/else"
    )


@pytest.fixture(scope="module")
def cosine_run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs with a cosine schedule."""
    run_dir = tmp_path_factory.mktemp("cosine") / "r"
    flags = ("--model", "ddunet", "--data", scenes, "--run", run_dir, *TINY, "--epochs", 2, "--schedule", "cosine")
    assert main([str(argument) for argument in ("train", *flags)]) == 0
    return run_dir


def test_longer_cosine_reports_change_of_learning_rate(cosine_run: Path, tmp_path: Path, cli: Cli) -> None:
    run_dir = shutil.copytree(cosine_run, tmp_path / "r")
    code, out, _ = cli("train", "--run", run_dir, "--resume", "--epochs", 4)
    assert code == 0 and "learning rate: 0 after epoch 2 of 2, now 0.0005" in out and "--resume-schedule restart" in out


def test_restarted_cosine_begins_with_full_learning_rate(cosine_run: Path, tmp_path: Path, cli: Cli) -> None:
    run_dir = shutil.copytree(cosine_run, tmp_path / "r")
    code, out, _ = cli("train", "--run", run_dir, "--resume", "--epochs", 4, "--resume-schedule", "restart")
    rates = [float(row["learning_rate"]) for row in read_history(run_dir)]
    assert code == 0 and "learning rate:" not in out and rates[2:] == rates[:2]
    assert json.loads((run_dir / "config.json").read_text())["schedule_start"] == 2


def test_resume_with_only_damaged_files_fails(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    run_dir = tmp_path / "r"
    assert cli("train", "--model", "ddunet", "--data", scenes, "--epochs", 1, "--run", run_dir, *TINY)[0] == 0
    before = read_history(run_dir)
    for path in (run_dir / "resume").iterdir():
        path.write_bytes(b"torn")
    code, _, err = cli("train", "--run", run_dir, "--resume", "--epochs", 2)
    assert code == 1 and "none of the 1 resume files is intact" in err and err.count("\n") == 1
    assert read_history(run_dir) == before


def test_image_damaged_after_validation_is_named(plain_dataset: Path, tmp_path: Path, cli: Cli) -> None:
    from training.engine import job

    validate_inputs = job.validate_inputs

    def validate_and_damage(*args: object, **kwargs: object) -> object:
        result = validate_inputs(*args, **kwargs)  # type: ignore[arg-type]
        (plain_dataset / "images" / "train" / "1.jpg").write_bytes(b"\xff\xd8\xff")
        return result

    flags = ("--batch-size", 2, "--width", 2, "--size", 32, 64, "--cache", "none", "--run", tmp_path / "r")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "validate_inputs", validate_and_damage)
        code, _, err = cli("train", "--model", "ddunet", "--data", plain_dataset, *flags)
    message = err.rsplit("\r")[-1]  # after the progress bar
    assert code == 2 and message.count("\n") == 1
    assert message.startswith(f"error: {plain_dataset}/images/train/1.jpg: the image is damaged")


def test_synthetic_data_needs_no_directory(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.synthetic.dataset.SYNTHETIC_COUNTS", {"train": 4, "val": 2})
    flags = ("--epochs", 1, "--run", tmp_path / "r", *TINY)
    code, out, _ = cli("train", "--model", "ddunet", "--data", "synthetic", *flags)
    assert code == 0 and "synthetic: 4 training and 2 validation images, 19 classes" in out
