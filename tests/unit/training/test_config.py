"""Tests of training.config: precedence of its sources, and an error of one line for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.errors import InputError
from training.config import TrainConfig, load_config, resolve_config


def write_run_config(run_dir: Path, config: dict[str, object]) -> None:
    (run_dir / "config.json").write_text(json.dumps({"config": config}))


def test_run_dir_defaults_to_model_name() -> None:
    assert load_config({"model": "ddunet", "data": "x"}).run_dir == Path("runs/ddunet")


def test_flag_overrides_environment_overrides_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"epochs": 1, "width": 11, "seed": 111}))
    monkeypatch.setenv("TRAIN_EPOCHS", "2")
    monkeypatch.setenv("TRAIN_WIDTH", "22")
    config = load_config({"epochs": "3"}, file)
    assert (config.epochs, config.width, config.seed) == (3, 22, 111)


def test_file_accepts_keys_spelled_as_flags(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text('{"batch-size": 3, "learning_rate": 0.5}')
    config = load_config({}, file)
    assert (config.batch_size, config.learning_rate) == (3, 0.5)


@pytest.mark.parametrize("text", ["128 256", "128x256", "[128, 256]"])
def test_environment_accepts_size(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TRAIN_SIZE", text)
    assert load_config({}).size == (128, 256)


def test_empty_environment_variable_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAIN_EPOCHS", "")
    assert load_config({}).epochs == TrainConfig().epochs


def test_unknown_environment_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAIN_BATCH_SISE", "4")
    with pytest.raises(InputError, match=r"TRAIN_BATCH_SISE: unknown setting \(did you mean TRAIN_BATCH_SIZE\?\)"):
        load_config({})


@pytest.mark.parametrize("name", ["TRAIN_SERVICE_HOST", "TRAIN_PORT", "TRAIN_PORT_80_TCP"])
def test_variables_of_kubernetes_are_ignored(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Kubernetes sets them in every pod if there is a Service called `train`."""
    monkeypatch.setenv(name, "tcp://10.0.0.1:80")
    assert load_config({}) == TrainConfig()


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
        ({"loss": "dice", "class_weights": "data"}, "^--class-weights: the Dice loss has none"),
    ],
)
def test_invalid_flag_is_named_in_one_line(flags: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        load_config(flags)
    assert "\n" not in str(error.value)


def test_invalid_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAIN_BATCH_SIZE", "x")
    with pytest.raises(InputError, match="TRAIN_BATCH_SIZE"):
        load_config({})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"epoch": 3}', r"epoch: unknown setting \(did you mean epochs\?\)"),
        ("[]", "JSON object"),
        ("{", "JSON object"),
    ],
    ids=["unknown key", "list", "truncated"],
)
def test_invalid_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "c.json"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        load_config({}, file)


def test_missing_model_or_data_is_reported() -> None:
    with pytest.raises(InputError, match="--model: missing; known: unet, r2unet, ddunet"):
        resolve_config(TrainConfig(), set())
    with pytest.raises(InputError, match="--data: missing"):
        resolve_config(TrainConfig(model="unet", run="/nowhere/at/all"), set())


@pytest.mark.parametrize("file", ["checkpoints/epoch-0001.safetensors", "resume/0001-000000.safetensors"])
def test_run_dir_with_checkpoints_needs_resume(tmp_path: Path, file: str) -> None:
    write_run_config(tmp_path, {})
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).touch()
    with pytest.raises(InputError, match="already contains a run; add --resume"):
        resolve_config(TrainConfig(model="unet", data="x", run=str(tmp_path)), {"model", "data", "run"})


def test_resume_of_missing_run_is_reported() -> None:
    with pytest.raises(InputError, match=r"--run: no run in runs/nope; to start one, specify --model \(unet, r2unet, ddunet\)"):
        resolve_config(TrainConfig(run="runs/nope", resume=True), {"run", "resume"})


def test_resume_names_invalid_setting_of_config_json(tmp_path: Path) -> None:
    write_run_config(tmp_path, {"epochs": "many"})
    with pytest.raises(InputError, match=r"config\.json: can't be read as a run's configuration \(epochs: .*integer"):
        resolve_config(TrainConfig(run=str(tmp_path), resume=True), {"run", "resume"})


def test_resume_before_first_step_checks_merged_settings(tmp_path: Path) -> None:
    write_run_config(tmp_path, {"model": "unet", "data": "x", "accumulate": 4})
    with pytest.raises(InputError, match="--accumulate: 4 parts of a batch of 6"):
        resolve_config(TrainConfig(run=str(tmp_path), resume=True, batch_size=6), {"run", "resume", "batch_size"})


def test_resume_keeps_setting_of_run_over_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run_config(tmp_path, {"model": "unet", "data": "x", "batch_size": 2})
    (tmp_path / "resume").mkdir()
    (tmp_path / "resume" / "0001-000000.safetensors").touch()
    config = resolve_config(TrainConfig(run=str(tmp_path), resume=True, batch_size=4), {"run", "resume"})
    assert config.batch_size == 2 and "warning: batch-size: the run keeps 2" in capsys.readouterr().err


def test_run_without_setting_for_jpegs_decodes_them_at_full_size(tmp_path: Path) -> None:
    write_run_config(tmp_path, {"model": "unet", "data": "x"})
    assert resolve_config(TrainConfig(run=str(tmp_path), resume=True), {"run", "resume"}).jpeg == "full"


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("file", ["runs/first/checkpoints/best.safetensors", "weights/first.safetensors"])
def test_command_has_no_path_of_the_computer_even_if_init_is_gone(tmp_path: Path, file: str, exists: bool) -> None:
    path = tmp_path / file
    if exists:
        path.parent.mkdir(parents=True)
        path.touch()
    command = TrainConfig(model="unet", data="synthetic", init=str(path)).command
    assert command == f"python -m training train --model unet --data synthetic --init {file}"


def test_command_keeps_name_of_bundled_checkpoint() -> None:
    assert TrainConfig(model="unet", data="synthetic", init="unet").command.endswith("--init unet")


def test_environment_accepts_several_data_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAIN_DATA", "/data/a:/data/b")
    assert load_config({}).data == ("/data/a", "/data/b")
    assert load_config({"data": ["c"]}).data == ("c",)


def test_data_is_saved_as_string_or_list_and_read_again() -> None:
    for data, saved in ((["a:b"], "a:b"), (["a", "b"], ["a", "b"])):
        config = TrainConfig(model="unet", data=data)
        assert json.loads(config.model_dump_json())["data"] == saved
        assert TrainConfig.model_validate_json(config.model_dump_json()).data == tuple(data)


def test_command_has_names_of_all_data_directories() -> None:
    command = TrainConfig(model="unet", data=["/x/a", "/x/b c"], epochs=3).command
    assert command == "python -m training train --model unet --data a 'b c' --epochs 3"
