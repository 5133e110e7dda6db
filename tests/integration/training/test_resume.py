"""Going on in odd places: a moved folder, other data, a past that is done again, agents of several machines."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from core import __version__
from core.checkpoints import safetensors_io
from core.checkpoints.checkpoint import read_checkpoint
from core.errors import InputError
from core.runtime.files import make_folder
from tests.support.crash_save import prepare, save
from tests.support.kill_resume import ROOT, STEPS, Victim, differences, lives, write_data
from training.distributed.context import launcher
from training.distributed.signals import StopWish
from training.tracking.history import write_table
from training.tracking.run_dir import LEADING, Past, RunFolder

Cli = Callable[..., tuple[int, str, str]]
TINY = ("--model", "ddunet", "--width", 2, "--size", 32, 64, "--batch-size", 2)


@pytest.fixture
def copied(scenes: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scenes, tmp_path / "data"))


def test_a_folder_that_was_moved_goes_on_where_it_is(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("train", "--data", scenes, "--run", tmp_path / "before", "--epochs", 1, *TINY)[0] == 0
    (tmp_path / "before").rename(tmp_path / "after")
    code, out, _ = cli("train", "--run", tmp_path / "after", "--resume", "--epochs", 2)
    assert code == 0 and f"{tmp_path / 'after'}: going on after epoch 1" in out
    assert not (tmp_path / "before").exists()
    assert json.loads((tmp_path / "after" / "config.json").read_text())["config"]["run"] == str(tmp_path / "after")


def test_a_folder_that_was_moved_is_found_by_its_model_s_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.config import TrainConfig, settle

    monkeypatch.chdir(tmp_path)
    folder = RunFolder(Path("runs/ddunet"))
    folder.create(TrainConfig(model="ddunet", data="x", run="runs/x"), {}, [], Past())
    for begun in (False, True):
        assert settle(TrainConfig(model="ddunet", resume=True), {"model", "resume"}).run_folder == folder.path
        save(folder, 1)
        assert begun or folder.can_resume


def test_other_pictures_of_the_same_names_are_recorded_as_not_exact(copied: Path, tmp_path: Path, cli: Cli) -> None:
    """Labels, names and the numbers of pixels stay as they were."""
    flags = ("--data", copied, "--run", tmp_path / "r", *TINY)
    assert cli("train", "--epochs", 1, *flags)[0] == 0
    photo = next((copied / "leftImg8bit" / "train").rglob("*.png"))
    cv2.imwrite(str(photo), 255 - cv2.imread(str(photo)))
    code, out, _ = cli("train", "--run", tmp_path / "r", "--resume", "--epochs", 2)
    assert code == 0 and "warning: data " in out and "not with the bits of an undisturbed run" in out
    starts = json.loads((tmp_path / "r" / "config.json").read_text())["starts"]
    assert [start["exact"] for start in starts] == [True, False]


def test_a_damaged_newest_file_is_one_warning_in_all(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("train", "--data", scenes, "--run", tmp_path / "r", "--epochs", 2, *TINY)[0] == 0
    newest = tmp_path / "r" / "resume" / "0002-000000.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    code, out, _ = cli("train", "--run", tmp_path / "r", "--resume")
    assert code == 0 and out.count("warning") == 1 and "what comes after is done again" in out


def test_best_and_last_are_of_the_history_that_a_run_goes_on_from(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "r")
    prepare(folder)
    save(folder, 3)
    rows = [{"epoch": epoch, f"val_{LEADING}": score} for epoch, score in ((1, 0.3), (2, 0.3), (3, 0.9))]
    write_table(folder.history, rows, list(rows[0]))
    shutil.copy(folder.checkpoints / "epoch-0003.safetensors", folder.checkpoints / "epoch-0001.safetensors")
    folder.go_back(2)
    names = {path.name: path.stat().st_ino for path in folder.checkpoints.iterdir()}
    assert names["best.safetensors"] == names["epoch-0001.safetensors"]  # the first of two equal scores
    assert [row["epoch"] for row in folder.read_history()] == [1, 2]


def test_keep_counts_no_epoch_that_is_done_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "r")
    prepare(folder)
    shutil.copy(folder.checkpoints / "epoch-0002.safetensors", folder.checkpoints / "epoch-0009.safetensors")
    save(folder, 3)  # with keep=1
    assert sorted(p.stem for p in folder.checkpoints.glob("epoch-*")) == ["epoch-0003", "epoch-0009"]
    card = read_checkpoint(folder.checkpoints / "last.safetensors").card
    assert (card.epoch, card.code_version) == (3, __version__)


def test_new_folders_are_made_to_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("core.runtime.files.sync_folder", synced.append)
    make_folder(tmp_path / "a" / "b" / "c")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b" / "c").is_dir() and synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]


def test_a_verdict_that_can_t_be_written_is_no_new_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(launcher.VERDICT, str(tmp_path / "gone" / "verdict"))
    launcher.leave_verdict(2)


def test_a_stop_before_the_first_step_says_how_to_go_on() -> None:
    assert launcher.stopped_before(0).endswith("start the same command again")
    assert launcher.stopped_before(1).endswith("start the same command again, with --resume")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def gone(pids: list[int], within_s: float) -> bool:
    until = time.monotonic() + within_s
    while any(map(lives, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(map(lives, pids))


def test_a_stop_is_granted_though_nobody_reads_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr("training.distributed.signals.os.write", gone)
    wish = StopWish(tell=True)
    wish.note(signal.SIGINT, None)
    assert wish.asked


TORCHRUN = (sys.executable, "-m", "torch.distributed.run")


def test_the_agents_of_two_machines_go_on_with_their_own_run(scenes: Path, tmp_path: Path) -> None:
    """Two agents that share a folder: a rank dies, both start theirs again, and neither takes the run for a stranger's."""
    short = ("--batch-size", 2, "--epochs", 2)
    whole = Victim(scenes, tmp_path / "whole", 2, short)
    whole.whole()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = ["--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "3"]
    together += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    commands = [(*TORCHRUN, *together, "--node-rank", rank, "-m", "--", "tests.support.traced_training") for rank in "01"]
    agents = [Victim(scenes, tmp_path / "r", 2, short, program=command) for command in commands]
    processes = [agent.start() for agent in agents]
    assert agents[0].until(processes[0], 3), agents[0].finish(processes[0])
    for pid in agents[1].workers(processes[1]):
        subprocess.run(["kill", "-9", str(pid)], check=True)
    codes = [agent.finish(process) for agent, process in zip(agents, processes, strict=True)]
    assert codes == [0, 0], [agent.out[-1][-3000:] for agent in agents]
    assert "going on after epoch 0, step 2" in agents[0].out[-1]
    assert differences(tmp_path / "r", whole.folder, epochs=2) == []


def test_ranks_do_not_outlive_an_agent_that_dies_while_they_prepare(scenes: Path, tmp_path: Path) -> None:
    program = tmp_path / "slow.py"
    program.write_text(
        "import os, runpy, time; from training import train\n"
        "train.prepare = lambda *_, **__: time.sleep(1000)\n"
        "os.write(1, b'here\\n')\n"
        "runpy.run_module('training', run_name='__main__')\n"
    )
    flags = ("train", "--data", scenes, "--run", tmp_path / "r", *TINY)
    command = [*TORCHRUN, "--standalone", "--nproc-per-node", "2", "--", program, *flags]
    agent = subprocess.Popen([*map(str, command)], cwd=ROOT, env=environment(), text=True, stdout=subprocess.PIPE)
    assert agent.stdout
    assert [agent.stdout.readline() for _ in range(2)] == ["here\n", "here\n"]
    workers = Victim(scenes, tmp_path).workers(agent)
    assert len(workers) == 2
    agent.kill()
    agent.wait()
    assert gone(workers, 10)


def test_a_run_that_was_begun_meanwhile_is_not_written_over(scenes: Path, tmp_path: Path) -> None:
    """Between the look at the folder and the lock another process may have saved and ended."""
    from training.commands.train import train
    from training.config import TrainConfig

    folder = RunFolder(tmp_path / "r")
    config = TrainConfig(model="ddunet", data=str(scenes), run=str(folder.path), width=2, size=(32, 64), batch_size=2, gpus=0)
    folder.create(config, {}, [], Past())
    save(folder, 1)
    before = (folder.path / "config.json").read_bytes()
    with pytest.raises(InputError, match="holds a run; go on with --resume"):
        train(config)
    assert (folder.path / "config.json").read_bytes() == before


def test_a_history_of_whole_numbers_written_otherwise_goes_on(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    """A spreadsheet saves 1 as 1.0."""
    assert cli("train", "--data", scenes, "--run", tmp_path / "r", "--epochs", 1, *TINY)[0] == 0
    table = tmp_path / "r" / "history.csv"
    table.write_text(table.read_text().replace("\n1,", "\n1.0,"))
    assert cli("train", "--run", tmp_path / "r", "--resume", "--epochs", 2)[0] == 0
    table.write_text(table.read_text().replace(",", ";"))
    code, _, err = cli("train", "--run", tmp_path / "r", "--resume", "--epochs", 3)
    assert code == 2 and "not the history of a run" in err


def test_what_an_older_program_did_not_save_has_its_default(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    assert cli("train", "--data", scenes, "--run", tmp_path / "r", "--epochs", 1, *TINY)[0] == 0
    path = tmp_path / "r" / "config.json"
    document = json.loads(path.read_text())
    del document["config"]["weight_decay"]
    path.write_text(json.dumps(document))
    monkeypatch.setenv("TRAIN_WEIGHT_DECAY", "0.5")
    code, _, err = cli("train", "--run", tmp_path / "r", "--resume", "--epochs", 2)
    assert code == 0 and "the run has 0.0 and keeps it" in err
    assert json.loads(path.read_text())["config"]["weight_decay"] == 0


def test_a_run_goes_on_where_its_pictures_have_been_moved(copied: Path, tmp_path: Path, cli: Cli) -> None:
    folder = tmp_path / "r"
    assert cli("train", "--data", copied, "--run", folder, "--epochs", 1, *TINY)[0] == 0
    moved = copied.rename(tmp_path / "elsewhere")
    code, out, err = cli("train", "--data", f"{moved}/", "--run", folder, "--resume", "--epochs", 2)
    assert code == 0 and "warning" not in out, out + err
    assert json.loads((folder / "config.json").read_text())["config"]["data"] == f"{moved}/"


def test_a_run_does_not_go_on_with_other_pictures_that_lie_elsewhere(
    scenes: Path, copied: Path, tmp_path: Path, cli: Cli
) -> None:
    folder = tmp_path / "r"
    assert cli("train", "--data", scenes, "--run", folder, "--epochs", 1, *TINY)[0] == 0
    photo = next((copied / "leftImg8bit" / "train").rglob("*.png"))
    cv2.imwrite(str(photo), 255 - cv2.imread(str(photo)))
    code, _, err = cli("train", "--data", copied, "--run", folder, "--resume", "--epochs", 2)
    assert code == 2 and "--data: other pictures than the run has learned from" in err and err.count("\n") == 1
    assert cli("train", "--run", folder, "--resume", "--epochs", 2)[0] == 0


def test_a_run_does_not_go_on_with_data_of_other_classes(scenes: Path, plain: Path, tmp_path: Path, cli: Cli) -> None:
    folder = tmp_path / "r"
    assert cli("train", "--data", scenes, "--run", folder, "--epochs", 1, *TINY)[0] == 0
    code, _, err = cli("train", "--data", plain, "--run", folder, "--resume", "--epochs", 2)
    assert code == 2 and "--data: other classes than the run has learned: class 0 is 'road' in one and 'a' in the other" in err


def test_what_is_exported_beside_the_epochs_is_none_of_them(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    folder = tmp_path / "r"
    assert cli("train", "--data", scenes, "--run", folder, "--epochs", 1, "--keep", 1, *TINY)[0] == 0
    assert cli("export", folder / "checkpoints" / "epoch-0001.safetensors", "--to", "fp16")[0] == 0
    assert cli("train", "--run", folder, "--resume", "--epochs", 3)[0] == 0
    names = {path.name for path in (folder / "checkpoints").glob("epoch-*.safetensors")}
    assert names == {"epoch-0001.fp16.safetensors", "epoch-0003.safetensors"}


def test_the_seconds_of_an_epoch_are_those_of_all_its_steps(tmp_path: Path) -> None:
    victim = Victim(write_data(tmp_path / "scenes"), tmp_path / "r", slow="0.05")
    process = victim.start()
    assert victim.until(process, STEPS + 3), victim.finish(process)
    process.terminate()
    assert victim.finish(process) == 0, victim.out[-1]
    document, _ = safetensors_io.read(max((tmp_path / "r" / "resume").iterdir()))
    assert document["epoch"] == 1 and document["step"] >= 3 and document["seconds"] > 0
    victim.whole()
    with (tmp_path / "r" / "history.csv").open() as file:
        assert float(list(csv.DictReader(file))[1]["seconds"]) > document["seconds"]
