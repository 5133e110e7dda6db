"""Tests of resuming a run: moved directories, changed data, damaged files, older releases, and torchrun on several nodes."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from core.checkpoints import safetensors_io
from core.errors import InputError
from tests.support.cli import Cli
from tests.support.crash_save import save_epoch
from tests.support.kill_resume import run_differences
from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.support.training_process import STEPS_PER_EPOCH, TrainingRun, is_running, write_scenes
from tests.support.wait import wait_until
from training.config import TrainConfig
from training.engine.job import run_job, train
from training.tracking.run_dir import Lineage, RunDir

TINY = ("--model", "ddunet", "--width", 2, "--size", 32, 64, "--batch-size", 2)


@pytest.fixture
def scenes_copy(scenes: Path, tmp_path: Path) -> Path:
    """A copy of `scenes` that a test may change."""
    return Path(shutil.copytree(scenes, tmp_path / "data"))


def test_moved_run_directory_can_be_resumed(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("train", "--data", scenes, "--run", tmp_path / "before", "--epochs", 1, *TINY)[0] == 0
    (tmp_path / "before").rename(tmp_path / "after")
    code, out, _ = cli("train", "--run", tmp_path / "after", "--resume", "--epochs", 2)
    assert code == 0 and f"{tmp_path / 'after'}: resuming after epoch 1" in out
    assert not (tmp_path / "before").exists()
    assert json.loads((tmp_path / "after" / "config.json").read_text())["config"]["run"] == str(tmp_path / "after")


def test_changed_image_is_recorded_as_not_reproducible(scenes_copy: Path, tmp_path: Path, cli: Cli) -> None:
    """Labels, file names and image sizes stay the same."""
    flags = ("--data", scenes_copy, "--run", tmp_path / "r", *TINY)
    assert cli("train", "--epochs", 1, *flags)[0] == 0
    image_path = next((scenes_copy / "leftImg8bit" / "train").rglob("*.png"))
    cv2.imwrite(str(image_path), 255 - cv2.imread(str(image_path)))
    code, out, _ = cli("train", "--run", tmp_path / "r", "--resume", "--epochs", 2)
    assert code == 0 and "warning: data " in out and "the result is not bitwise reproducible" in out
    starts = json.loads((tmp_path / "r" / "config.json").read_text())["starts"]
    assert [start["bitwise_reproducible"] for start in starts] == [True, False]


def test_damaged_newest_resume_file_gives_one_warning(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("train", "--data", scenes, "--run", tmp_path / "r", "--epochs", 2, *TINY)[0] == 0
    newest = tmp_path / "r" / "resume" / "0002-000000.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    code, out, _ = cli("train", "--run", tmp_path / "r", "--resume")
    assert code == 0 and out.count("warning") == 1 and "the later epochs are trained again" in out


TORCHRUN = (sys.executable, "-m", "torch.distributed.run")


def test_torchrun_agents_of_two_nodes_resume_after_rank_is_killed(scenes: Path, tmp_path: Path) -> None:
    """Two agents write to one run directory: after a rank is killed, both restart their ranks and recognize the run."""
    flags = ("--batch-size", 2, "--epochs", 2)
    uninterrupted = TrainingRun(scenes, tmp_path / "uninterrupted", 2, flags)
    uninterrupted.run_to_completion()
    rendezvous = ["--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "3"]
    rendezvous += ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    commands = [(*TORCHRUN, *rendezvous, "--node-rank", rank, "-m", "--", "tests.support.traced_training") for rank in "01"]
    agents = [TrainingRun(scenes, tmp_path / "r", 2, flags, program=command) for command in commands]
    processes = [agent.start() for agent in agents]
    assert agents[0].wait_for_events(processes[0], 3), agents[0].finish(processes[0])
    for pid in agents[1].worker_pids(processes[1]):
        subprocess.run(["kill", "-9", str(pid)], check=True)
    codes = [agent.finish(process) for agent, process in zip(agents, processes, strict=True)]
    assert codes == [0, 0], [agent.outputs[-1][-3000:] for agent in agents]
    assert "resuming after epoch 0, step 2" in agents[0].outputs[-1]
    assert run_differences(tmp_path / "r", uninterrupted.run_dir, epochs=2) == []


def test_ranks_end_if_agent_is_killed_during_validation_of_inputs(scenes: Path, tmp_path: Path) -> None:
    program = tmp_path / "slow.py"
    program.write_text(
        "import os, runpy, time; from training.engine import job\n"
        "job.validate_inputs = lambda *_, **__: time.sleep(1000)\n"
        "os.write(1, b'ready\\n')\n"
        "runpy.run_module('training', run_name='__main__')\n"
    )
    flags = ("train", "--data", scenes, "--run", tmp_path / "r", *TINY)
    command = [*TORCHRUN, "--standalone", "--nproc-per-node", "2", "--", program, *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    agent = subprocess.Popen([*map(str, command)], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE)
    assert agent.stdout
    assert [agent.stdout.readline() for _ in range(2)] == ["ready\n", "ready\n"]
    workers = TrainingRun(scenes, tmp_path).worker_pids(agent)
    assert len(workers) == 2
    agent.kill()
    agent.wait()
    wait_until(lambda: not any(map(is_running, workers)), timeout_s=10, interval_s=0.05)


def test_run_created_concurrently_is_not_overwritten(scenes: Path, tmp_path: Path) -> None:
    """Another process may create the run after the directory was checked and before it is locked."""
    run_dir = RunDir(tmp_path / "r")
    config = TrainConfig(model="ddunet", data=str(scenes), run=str(run_dir.path), width=2, size=(32, 64), batch_size=2, gpus=0)
    run_dir.create(config, {}, [], Lineage())
    save_epoch(run_dir, 1)
    before = (run_dir.path / "config.json").read_bytes()
    with pytest.raises(InputError, match="already contains a run; add --resume"):
        train(config)
    assert (run_dir.path / "config.json").read_bytes() == before


def test_second_start_of_job_reports_that_it_resumes(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second start may be another run, for which an old --rdzv-id was used."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job-7")
    flags = {"model": "ddunet", "data": str(scenes), "run": str(tmp_path / "r"), "width": 2, "size": (32, 64), "batch_size": 2}
    for epochs, message in ((1, ""), (2, f"{tmp_path / 'r'}: the last start was of this job (job-7), so its run is resumed")):
        assert run_job({**flags, "epochs": epochs, "gpus": 0}, None, []) == 0
        out = capsys.readouterr().out
        assert message in out and ("--rdzv-id" in out) == bool(message)


def test_history_edited_with_spreadsheet_can_be_resumed(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    """Spreadsheets save 1 as 1.0."""
    assert cli("train", "--data", scenes, "--run", tmp_path / "r", "--epochs", 1, *TINY)[0] == 0
    history = tmp_path / "r" / "history.csv"
    history.write_text(history.read_text().replace("\n1,", "\n1.0,"))
    assert cli("train", "--run", tmp_path / "r", "--resume", "--epochs", 2)[0] == 0
    history.write_text(history.read_text().replace(",", ";"))
    code, _, err = cli("train", "--run", tmp_path / "r", "--resume", "--epochs", 3)
    assert code == 2 and "not a training history" in err


def test_setting_missing_from_config_json_has_default(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    assert cli("train", "--data", scenes, "--run", tmp_path / "r", "--epochs", 1, *TINY)[0] == 0
    path = tmp_path / "r" / "config.json"
    document = json.loads(path.read_text())
    del document["config"]["weight_decay"]
    path.write_text(json.dumps(document))
    monkeypatch.setenv("TRAIN_WEIGHT_DECAY", "0.5")
    code, _, err = cli("train", "--run", tmp_path / "r", "--resume", "--epochs", 2)
    assert code == 0 and "the run keeps 0.0" in err
    assert json.loads(path.read_text())["config"]["weight_decay"] == 0


def test_run_with_moved_data_can_be_resumed(scenes_copy: Path, tmp_path: Path, cli: Cli) -> None:
    run_dir = tmp_path / "r"
    assert cli("train", "--data", scenes_copy, "--run", run_dir, "--epochs", 1, *TINY)[0] == 0
    moved = scenes_copy.rename(tmp_path / "moved")
    code, out, err = cli("train", "--data", f"{moved}/", "--run", run_dir, "--resume", "--epochs", 2)
    assert code == 0 and "warning" not in out, out + err
    assert json.loads((run_dir / "config.json").read_text())["config"]["data"] == f"{moved}/"


def test_resume_rejects_other_data_directory_with_changed_image(
    scenes: Path, scenes_copy: Path, tmp_path: Path, cli: Cli
) -> None:
    run_dir = tmp_path / "r"
    assert cli("train", "--data", scenes, "--run", run_dir, "--epochs", 1, *TINY)[0] == 0
    image_path = next((scenes_copy / "leftImg8bit" / "train").rglob("*.png"))
    cv2.imwrite(str(image_path), 255 - cv2.imread(str(image_path)))
    code, _, err = cli("train", "--data", scenes_copy, "--run", run_dir, "--resume", "--epochs", 2)
    assert code == 2 and err.count("\n") == 1
    assert "--data: the images or labels differ from those that the run was trained on" in err
    assert cli("train", "--run", run_dir, "--resume", "--epochs", 2)[0] == 0


def test_resume_rejects_data_with_other_classes(scenes: Path, plain_dataset: Path, tmp_path: Path, cli: Cli) -> None:
    run_dir = tmp_path / "r"
    assert cli("train", "--data", scenes, "--run", run_dir, "--epochs", 1, *TINY)[0] == 0
    code, _, err = cli("train", "--data", plain_dataset, "--run", run_dir, "--resume", "--epochs", 2)
    assert code == 2 and "--data: the classes are not those of the run: class 0 is 'road' in one and 'a' in the other" in err


def test_keep_does_not_count_exported_checkpoint(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    run_dir = tmp_path / "r"
    assert cli("train", "--data", scenes, "--run", run_dir, "--epochs", 1, "--keep", 1, *TINY)[0] == 0
    assert cli("export", run_dir / "checkpoints" / "epoch-0001.safetensors", "--to", "fp16")[0] == 0
    assert cli("train", "--run", run_dir, "--resume", "--epochs", 3)[0] == 0
    names = {path.name for path in (run_dir / "checkpoints").glob("epoch-*.safetensors")}
    assert names == {"epoch-0001.fp16.safetensors", "epoch-0003.safetensors"}


def test_seconds_of_resumed_epoch_include_earlier_steps(tmp_path: Path) -> None:
    run = TrainingRun(write_scenes(tmp_path / "scenes"), tmp_path / "r")
    process = run.start()
    assert run.wait_for_events(process, STEPS_PER_EPOCH + 3), run.finish(process)
    process.terminate()
    assert run.finish(process) == 0, run.outputs[-1]
    document, _ = safetensors_io.read(max((tmp_path / "r" / "resume").iterdir()))
    assert document["epoch"] == 1 and document["step"] >= 3 and document["seconds"] > 0
    run.run_to_completion()
    with (tmp_path / "r" / "history.csv").open() as file:
        assert float(list(csv.DictReader(file))[1]["seconds"]) > document["seconds"]
