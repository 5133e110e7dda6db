"""The configuration: precedence, and one line for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.errors import InputError
from training.config import TrainConfig, load_config, settle


def test_the_contract_s_defaults() -> None:
    config = load_config({"model": "ddunet", "data": "x"})
    assert (config.epochs, config.batch_size, config.size, config.width) == (200, 8, (256, 256), 64)
    assert (config.augment, config.seed, config.learning_rate, config.schedule) == ("street", 0, 1e-3, "constant")
    assert config.run_folder == Path("runs/ddunet")


def test_a_flag_goes_before_the_environment_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"epochs": 1, "width": 11, "seed": 111}))
    monkeypatch.setenv("TRAIN_EPOCHS", "2")
    monkeypatch.setenv("TRAIN_WIDTH", "22")
    config = load_config({"epochs": "3"}, file)
    assert (config.epochs, config.width, config.seed) == (3, 22, 111)


def test_a_file_s_keys_may_be_spelt_as_the_flags(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text('{"batch-size": 3, "learning_rate": 0.5}')
    config = load_config({}, file)
    assert (config.batch_size, config.learning_rate) == (3, 0.5)


@pytest.mark.parametrize("text", ["128 256", "128x256", "[128, 256]"])
def test_the_environment_can_tell_a_size(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TRAIN_SIZE", text)
    assert load_config({}).size == (128, 256)


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAIN_EPOCHS", "")
    assert load_config({}).epochs == 200


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"epochs": "many"}, r"--epochs: .*valid integer.*'many'"),
        ({"epochs": "0"}, r"--epochs: .*greater than or equal to 1"),
        ({"batch_size": "-4"}, "--batch-size"),
        ({"learning_rate": "nan"}, "--learning-rate: .*finite"),
        ({"learning_rate": "-1"}, "--learning-rate"),
        ({"size": ["256", "wide"]}, "--size"),
        ({"model": "segnet"}, "--model: unknown model 'segnet'; known: unet, r2unet, ddunet"),
        ({"augment": "wild"}, "--augment: .*'street' or 'classic'"),
        ({"accumulate": "3"}, "^--accumulate: 3 parts of a batch of 8; choose a divisor$"),
        ({"model": "unet", "checkpoint_activations": True}, "^--checkpoint-activations: unet has no recurrent steps"),
        (
            {"model": "r2unet", "checkpoint_activations": True, "compile": True},
            "^--checkpoint-activations: torch can't compile",
        ),
        ({"loss": "dice", "class_weights": "data"}, "^--class-weights: Dice has none"),
    ],
)
def test_a_wrong_flag_is_named_in_one_line(flags: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        load_config(flags)
    assert "\n" not in str(error.value)


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAIN_BATCH_SIZE", "x")
    with pytest.raises(InputError, match="TRAIN_BATCH_SIZE"):
        load_config({})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"epoch": 3}', r"epoch: no setting of that name \(did you mean epochs\?\)"),
        ("[]", "JSON object"),
        ("{", "JSON object"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "c.json"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        load_config({}, file)


def test_a_run_s_broken_configuration_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"config": {"epochs": "many"}}')
    with pytest.raises(InputError, match=r"config\.json: can't be read as a run's configuration \(epochs: .*integer"):
        settle(TrainConfig(run=str(tmp_path), resume=True), {"run", "resume"})


@pytest.mark.parametrize("left", ["checkpoints/epoch-0001.safetensors", "resume/0001-000000.safetensors"])
def test_a_folder_with_anything_of_a_run_is_not_begun_again(tmp_path: Path, left: str) -> None:
    (tmp_path / "config.json").write_text('{"config": {}}')
    (tmp_path / left).parent.mkdir()
    (tmp_path / left).touch()
    with pytest.raises(InputError, match="holds a run; go on with --resume"):
        settle(TrainConfig(model="unet", data="x", run=str(tmp_path)), {"model", "data", "run"})


def test_nothing_told_names_the_flag_and_the_models() -> None:
    with pytest.raises(InputError, match="--model: missing; known: unet, r2unet, ddunet"):
        settle(TrainConfig(), set())
    with pytest.raises(InputError, match="--data: missing"):
        settle(TrainConfig(model="unet", run="/nowhere/at/all"), set())


def test_a_variable_that_is_no_setting_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TRAIN_BATCH_SISE", "4")
    assert load_config({}).batch_size == 8
    assert "TRAIN_BATCH_SISE: no setting of that name (did you mean TRAIN_BATCH_SIZE?)" in capsys.readouterr().err


def test_a_resumed_run_that_never_began_is_checked_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"config": {"model": "unet", "data": "x", "accumulate": 4}}')
    with pytest.raises(InputError, match="--accumulate: 4 parts of a batch of 6"):
        settle(TrainConfig(run=str(tmp_path), resume=True, batch_size=6), {"run", "resume", "batch_size"})


def test_what_the_environment_says_against_a_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"config": {"model": "unet", "data": "x", "batch_size": 2}}')
    (tmp_path / "resume").mkdir()
    (tmp_path / "resume" / "0001-000000.safetensors").touch()
    settled = settle(TrainConfig(run=str(tmp_path), resume=True, batch_size=4), {"run", "resume"})
    assert settled.batch_size == 2 and "warning: batch-size: the run has 2 and keeps it" in capsys.readouterr().err


def test_a_run_that_is_not_there_is_told() -> None:
    with pytest.raises(InputError, match=r"--run: no run in runs/nope; to begin one say --model \(unet, r2unet, ddunet\)"):
        settle(TrainConfig(run="runs/nope", resume=True), {"run", "resume"})
