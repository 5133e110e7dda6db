"""Bad days of a training run: broken disks, damaged files, numbers that are not finite, hangs, a second writer."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core.checkpoints import safetensors_io
from core.checkpoints.checkpoint import read_checkpoint
from core.errors import CheckpointError, RunError
from tests.support.crash_save import prepare, save, tensors, what_is_there
from tests.support.kill_resume import ROOT, Victim, differences, kill_rank
from tests.unit.core.test_files import CountedCalls, killed_at
from training.tracking.lock import only_writer
from training.tracking.run_dir import RunFolder

TINY = ("--width", 2, "--size", 32, 64, "--batch-size", 2)


@pytest.fixture
def two_epochs(tmp_path: Path) -> Path:
    prepare(RunFolder(tmp_path / "two"))
    return tmp_path / "two"


def copy(source: Path, name: str) -> RunFolder:
    target = source.with_name(name)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return RunFolder(target)


def test_a_save_killed_at_each_system_call_leaves_the_old_or_the_new_epoch_whole(two_epochs: Path) -> None:
    found = []
    for call in range(1, 200):
        folder = copy(two_epochs, "run")
        code = killed_at(call, lambda folder=folder: save(folder, 3))  # type: ignore[misc]
        found.append(what_is_there(folder))
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert call > 25 and found[0] == {2} and found[-1] == {3} and all(epochs <= {2, 3} for epochs in found)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("name", ["write", "fsync"])
def test_a_disk_that_fails_in_a_save_leaves_the_old_epoch_whole(two_epochs: Path, name: str, number: int) -> None:
    def fail(_: str) -> None:
        raise OSError(number, os.strerror(number))

    for call in range(1, 100):
        folder = copy(two_epochs, "run")
        with pytest.MonkeyPatch.context() as patch:
            calls = CountedCalls(patch, call, fail, (name,))
            try:
                save(folder, 3)
            except OSError as error:
                assert error.errno == number
        assert what_is_there(folder) <= {2, 3}
        assert not list(folder.path.rglob("*.tmp"))
        if calls.seen < call:
            break
    assert call > 3


def test_a_hundred_flipped_bits_and_a_hundred_truncations_are_all_noticed(two_epochs: Path) -> None:
    chance = random.Random(0)
    for name, read in (
        ("checkpoints/last.safetensors", read_checkpoint),
        ("resume/0002-000000.safetensors", safetensors_io.read),
    ):
        whole = (two_epochs / name).read_bytes()
        path = two_epochs / "damaged.safetensors"
        for _ in range(100):
            place = chance.randrange(len(whole) * 8)
            flipped = bytearray(whole)
            flipped[place // 8] ^= 1 << place % 8
            for data in (bytes(flipped), whole[: chance.randrange(len(whole))]):
                path.write_bytes(data)
                with pytest.raises(CheckpointError, match=r"damaged\.safetensors"):
                    read(path)


def test_the_file_before_a_damaged_one_is_taken_with_one_warning(two_epochs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(two_epochs)
    newest = folder.resume / "0002-000000.safetensors"
    newest.write_bytes(newest.read_bytes()[:-9])
    _, document, found = folder.newest_resume() or (None, {}, {})
    assert document["epoch"] == 1 and np.array_equal(found["weight"], tensors(1)["weight"])
    assert capsys.readouterr().out.count("warning") == 1
    save(folder, 2)
    assert sorted(p.name for p in folder.resume.glob("*.safetensors")) == ["0001-000000.safetensors", "0002-000000.safetensors"]


def test_files_are_ordered_by_epoch_whatever_the_clock_said(two_epochs: Path) -> None:
    folder = RunFolder(two_epochs)
    year = 365 * 24 * 3600
    os.utime(folder.resume / "0002-000000.safetensors", (time.time() - year, time.time() - year))
    os.utime(folder.resume / "0001-000000.safetensors", (time.time() + year, time.time() + year))
    save(folder, 3)
    assert sorted(p.name for p in folder.resume.iterdir()) == ["0002-000000.safetensors", "0003-000000.safetensors"]


def test_nothing_that_is_not_finite_is_saved(two_epochs: Path) -> None:
    with pytest.raises(RunError, match="weight is not finite"):
        RunFolder(two_epochs).save_resume(3, 0, {"epoch": 3}, {"weight": np.array([1, np.inf], np.float32)})
    assert what_is_there(RunFolder(two_epochs)) == {2}


def explode(monkeypatch: pytest.MonkeyPatch, at: int, look_every: int) -> None:
    """Make the n-th training batch NaN, and let the host look only now and then, as it does for a GPU."""
    from training.engine.loop import Loop
    from training.engine.step import Step

    original, look, seen = Step._forward_backward, Loop.look, [0]

    def forward_backward(self: Step, images: object, *rest: object) -> object:
        seen[0] += 1
        whole = self.scale
        self.scale = whole * float("nan") if seen[0] == at else whole
        try:
            return original(self, images, *rest)  # type: ignore[arg-type]
        finally:
            self.scale = whole

    def look_now_and_then(self: Loop, epoch: int, number: int) -> None:
        self.look_every = look_every
        if number % look_every == 0:
            look(self, epoch, number)

    monkeypatch.setattr(Step, "_forward_backward", forward_backward)
    monkeypatch.setattr(Loop, "look", look_now_and_then)


def test_a_loss_that_is_not_finite_stops_before_the_update_and_names_step_and_files(
    scenes: Path, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    """At once where looking costs nothing, and where it does some steps later, with no update in between."""
    from training.engine.trainer import Run

    runs: list[Run] = []
    original = Run.__init__

    def init(self: Run, *arguments: object) -> None:
        runs.append(self)
        original(self, *arguments)  # type: ignore[arg-type]

    for look_every in (1, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Run, "__init__", init)
            explode(patch, at=5, look_every=look_every)  # the second step of the second epoch
            folder = tmp_path / str(look_every)
            code, _, err = cli("train", "--model", "ddunet", "--data", scenes, "--epochs", 3, "--run", folder, *TINY)
        assert code == 1 and "epoch 2, step 2: the loss (nan) is not finite" in err
        assert err.count("_leftImg8bit.png") == 2
        assert [p.name for p in (folder / "resume").iterdir()] == ["0001-000000.safetensors"]
    first, second = ([p.detach().numpy() for p in run.network.parameters()] for run in runs)
    assert all(np.array_equal(a, b) and np.isfinite(a).all() for a, b in zip(first, second, strict=True))


def test_a_full_disk_in_training_ends_with_1_and_says_how_to_go_on(
    scenes: Path, tmp_path: Path, cli: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_resume = RunFolder.save_resume

    def full(self: RunFolder, epoch: int, *rest: object) -> None:
        if epoch == 2:
            monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        save_resume(self, epoch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(RunFolder, "save_resume", full)
    folder = tmp_path / "r"
    code, _, err = cli("train", "--model", "ddunet", "--data", scenes, "--epochs", 3, "--run", folder, *TINY)
    assert code == 1 and "can't be written (No space left on device)" in err and f"--run {folder} --resume" in err
    monkeypatch.undo()
    assert "going on after epoch 1" in cli("train", "--run", folder, "--resume")[1]


def test_a_tensorboard_folder_that_can_t_be_written_is_one_warning(
    scenes: Path, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "tensorboard").touch()  # a file: root may write to any folder
    code, out, _ = cli("train", "--model", "ddunet", "--data", scenes, "--epochs", 2, "--run", tmp_path / "r", *TINY)
    assert code == 0 and out.count("warning") == 1 and "no TensorBoard log" in out
    assert (tmp_path / "r" / "checkpoints" / "epoch-0002.safetensors").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's writer says so, too
def test_a_tensorboard_log_that_breaks_later_is_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from training.tracking.tensorboard import Board

    board = Board(tmp_path / "board", 1)
    assert board.writer
    file = board.writer._get_file_writer().event_writer._general_file_writer  # type: ignore[no-untyped-call]
    file.flush = file.write = lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))
    for epoch in (1, 2):
        board.write({"epoch": epoch, "val_loss": 1.0}, np.zeros((4, 4, 3), np.uint8))
    board.close()
    assert capsys.readouterr().out.count("warning") == 1


def test_a_second_writer_is_refused_by_name(scenes: Path, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    with only_writer(tmp_path / "r"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.tracking.lock.WAIT_S", 0.1)
        patch.setattr(only_writer.__wrapped__, "__defaults__", (0.1,))  # type: ignore[attr-defined]
        code, _, err = cli("train", "--model", "ddunet", "--data", scenes, "--run", tmp_path / "r", *TINY)
    assert code == 2 and f"is being written by process {os.getpid()} on " in err
    assert cli("train", "--model", "ddunet", "--data", scenes, "--run", tmp_path / "r", "--epochs", 1, *TINY)[0] == 0


def test_a_reader_that_hangs_ends_with_an_error_and_the_process_with_it(scenes: Path, tmp_path: Path) -> None:
    program = (
        "import time; from training.data.cache import CachedDataset as C; "
        "C.__getitem__ = lambda *_: time.sleep(1000); "
        "import runpy; runpy.run_module('training', run_name='__main__')"
    )
    flags = ("train", "--model", "ddunet", "--data", scenes, "--run", tmp_path / "r", "--timeout", 1, *TINY)
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, flags)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "error: epoch 1, step 1: no batch within 1 s: " in done.stderr and "_leftImg8bit.png" in done.stderr


def test_a_second_signal_stops_at_once(scenes: Path, tmp_path: Path) -> None:
    victim = Victim(scenes, tmp_path / "r", flags=("--batch-size", 2), slow="steps")
    process = victim.start()
    assert victim.until(process, 2), victim.finish(process)
    process.send_signal(signal.SIGTERM)
    time.sleep(3)  # sooner a second one would be the same wish
    assert process.poll() is None  # it waits for the end of a step that never comes
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == -signal.SIGTERM
    victim.slow = ""
    victim.whole()
    assert not list(victim.folder.rglob("*.tmp"))


SHORT = ("--batch-size", 2, "--epochs", 2)


@pytest.fixture(scope="module")
def undisturbed(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Victim:
    """A run of six steps in two processes, from beginning to end."""
    run = Victim(scenes, tmp_path_factory.mktemp("whole") / "r", 2, SHORT)
    run.whole()
    return run


@pytest.mark.parametrize("what", ["validation", "save"])
def test_a_signal_in_a_validation_or_a_save_stops_with_everything_saved(
    scenes: Path, undisturbed: Victim, tmp_path: Path, what: str
) -> None:
    victim = Victim(scenes, tmp_path / "r", 2, SHORT, slow=what)
    process = victim.start()
    assert victim.until(process, 1, what=what), victim.finish(process)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert victim.finish(process) == 0, victim.out[-1]
    assert time.monotonic() - began < 20
    assert f"stopped; go on with: python -m training train --run {victim.folder} --resume" in victim.out[-1]
    # nothing is done twice: the signal of a save comes in after it, at the next step
    names = [p.stem for p in (victim.folder / "resume").iterdir()]
    assert ("0000-000003" if what == "validation" else "0000-000002") in names
    victim.slow = ""
    victim.whole()
    assert victim.done() == undisturbed.done() == 6
    assert differences(victim.folder, undisturbed.folder, epochs=2) == []


def test_a_rank_that_hangs_is_an_error_within_the_timeout_and_all_start_again(
    scenes: Path, undisturbed: Victim, tmp_path: Path
) -> None:
    victim = Victim(scenes, tmp_path / "r", 2, (*SHORT, "--timeout", 5))
    process = victim.start()
    assert victim.until(process, 3), victim.finish(process)
    os.kill(victim.workers(process)[1], signal.SIGSTOP)
    assert victim.finish(process) == 0, victim.out[-1]
    assert "all start again from the newest checkpoint (restart 1 of 3)" in victim.out[-1]
    assert differences(victim.folder, undisturbed.folder, epochs=2) == []


def test_an_error_that_would_come_again_is_not_tried_again(undisturbed: Victim, tmp_path: Path) -> None:
    victim = replace(undisturbed, folder=tmp_path / "r")
    shutil.copytree(undisturbed.folder, victim.folder)
    for path in (victim.folder / "resume").iterdir():
        path.write_bytes(b"torn")
    process = victim.start()
    assert victim.finish(process) == 1
    assert "none of its 2 files is whole" in victim.out[-1] and "start again from" not in victim.out[-1]


def test_restarts_come_to_an_end(scenes: Path, tmp_path: Path) -> None:
    victim = Victim(scenes, tmp_path / "r", 2, ("--batch-size", 2, "--max-restarts", 1))
    process = victim.start()
    for _ in range(2):
        assert victim.until(process, 1), victim.finish(process)
        os.kill(victim.workers(process)[1], signal.SIGKILL)
    assert victim.finish(process) == 1
    assert "died of SIGKILL, and 1 restarts did not help" in victim.out[-1]


def test_another_number_of_ranks_goes_on_and_is_recorded_as_not_exact(scenes: Path, tmp_path: Path) -> None:
    victim = Victim(scenes, tmp_path / "r", 2, ("--batch-size", 2, "--epochs", 2))
    process = victim.start()
    assert victim.until(process, 4), victim.finish(process)
    process.send_signal(signal.SIGTERM)
    assert victim.finish(process) == 0
    victim.processes = 1
    victim.whole()
    assert "warning: ranks 1 instead of 2, threads 2 instead of 1: it goes on, but not with the bits" in victim.out[-1]
    starts = json.loads((victim.folder / "config.json").read_text())["starts"]
    assert [(start["ranks"], start["exact"]) for start in starts] == [(2, True), (1, False)]


def test_a_restart_by_torchrun_goes_on(scenes: Path, undisturbed: Victim, tmp_path: Path) -> None:
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2")
    victim = Victim(scenes, tmp_path / "r", 2, SHORT, program=(*torchrun, "-m", "--", "tests.support.traced_training"))
    process = victim.start()
    assert victim.until(process, 3), victim.finish(process)
    kill_rank(victim, process, random.Random(0))
    assert victim.finish(process) == 0, victim.out[-1]
    assert "going on after epoch 0, step 2" in victim.out[-1] and victim.done() > 6
    assert differences(victim.folder, undisturbed.folder, epochs=2) == []


def test_resume_files_that_are_gone_are_no_reason_to_begin_again(
    undisturbed: Victim, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    folder = tmp_path / "r"
    shutil.copytree(undisturbed.folder, folder)
    for path in (folder / "resume").iterdir():
        path.unlink()
    history = (folder / "history.csv").read_bytes()
    code, _, err = cli("train", "--run", folder, "--resume")
    assert code == 1 and "holds nothing to go on from, but the run has finished epochs" in err
    assert (folder / "history.csv").read_bytes() == history


def test_the_newest_file_deleted_is_one_warning(
    undisturbed: Victim, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    folder = tmp_path / "r"
    shutil.copytree(undisturbed.folder, folder)
    (folder / "resume" / "0002-000000.safetensors").unlink()
    code, out, _ = cli("train", "--run", folder, "--resume")
    assert code == 0 and "what comes after is done again" in out and "going on after epoch 1, step 2" in out


def test_a_file_of_another_kind_among_the_resume_files_is_told(
    undisturbed: Victim, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    folder = tmp_path / "r"
    shutil.copytree(undisturbed.folder, folder)
    shutil.copy(folder / "checkpoints" / "last.safetensors", folder / "resume" / "0009-000000.safetensors")
    code, _, err = cli("train", "--run", folder, "--resume")
    assert code == 1 and "can't go on from (no 'kind')" in err and "Traceback" not in err


def test_a_run_whose_configuration_is_gone_is_not_written_over(
    undisturbed: Victim, scenes: Path, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    folder = tmp_path / "r"
    shutil.copytree(undisturbed.folder, folder)
    (folder / "config.json").unlink()
    flags = ("--model", "ddunet", "--data", scenes, "--run", folder, *TINY)
    assert cli("train", *flags)[0] == 2
    code, _, err = cli("train", *flags, "--resume")
    assert code == 2 and "config.json: missing, and the folder holds a run" in err


def test_a_signal_before_the_first_step_loses_nothing(scenes: Path, tmp_path: Path) -> None:
    program = (
        "import time; from training import train; "
        "train.prepare = lambda *_, **__: (print('here', flush=True), time.sleep(1000)); import runpy\n"
        "runpy.run_module('training', run_name='__main__')"
    )
    flags = ("train", "--model", "ddunet", "--data", scenes, "--run", tmp_path / "r", *TINY)
    process = subprocess.Popen([sys.executable, "-c", program, *map(str, flags)], cwd=ROOT, text=True, stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGTERM)
    assert "nothing is lost; start the same command again" in process.communicate(timeout=20)[0]
    assert process.returncode == 0


def test_no_memory_is_one_line_that_says_what_takes_less(monkeypatch: pytest.MonkeyPatch, checkpoint: Path, cli) -> None:
    for asked_too_much in (lambda *_: torch.empty(1 << 60), lambda *_: bytes(1 << 60)):
        monkeypatch.setattr("training.commands.predict.Segmenter", asked_too_much)
        code, _, err = cli("predict", checkpoint, checkpoint)
        assert code == 1 and err.startswith("error: not enough memory (") and "--device cpu" in err and err.count("\n") == 1
