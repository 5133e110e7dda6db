"""Tests of training under faults: disk errors, damaged files, non-finite losses, hangs, signals and a second writer."""

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
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core.checkpoints import safetensors_io
from core.checkpoints.checkpoint import read_checkpoint
from core.errors import CheckpointError, TrainingError
from tests.support.cli import Cli
from tests.support.crash_save import recoverable_epochs, save_epoch, tiny_tensors, write_two_epochs
from tests.support.kill_resume import kill_rank, run_differences
from tests.support.paths import ROOT
from tests.support.syscalls import SyscallHook, run_killed_at
from tests.support.training_process import TrainingRun
from training.engine.loop import TrainLoop
from training.engine.step import TrainStep
from training.engine.trainer import Trainer
from training.tracking.lock import lock_run_dir
from training.tracking.run_dir import RunDir
from training.tracking.tensorboard import TensorBoardLogger

TINY = ("--width", 2, "--size", 32, 64, "--batch-size", 2)


@pytest.fixture
def two_epochs(tmp_path: Path) -> Path:
    """A run directory with two complete epochs of tiny tensors."""
    write_two_epochs(RunDir(tmp_path / "two"))
    return tmp_path / "two"


def copy_run(source: Path, name: str) -> RunDir:
    """Copy a run directory to a sibling directory, and replace that if it exists."""
    target = source.with_name(name)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return RunDir(target)


def test_save_killed_at_any_system_call_keeps_old_or_new_epoch(two_epochs: Path) -> None:
    recoverable = []
    for call in range(1, 200):
        run_dir = copy_run(two_epochs, "run")
        code = run_killed_at(call, lambda run_dir=run_dir: save_epoch(run_dir, 3))  # type: ignore[misc]
        recoverable.append(recoverable_epochs(run_dir))
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert call > 25 and recoverable[0] == {2} and recoverable[-1] == {3}
    assert all(epochs <= {2, 3} for epochs in recoverable)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize("name", ["write", "fsync"])
def test_disk_error_during_save_keeps_old_or_new_epoch(two_epochs: Path, name: str, code: int) -> None:
    def fail(_: str) -> None:
        raise OSError(code, os.strerror(code))

    for call in range(1, 100):
        run_dir = copy_run(two_epochs, "run")
        with pytest.MonkeyPatch.context() as patch:
            calls = SyscallHook(patch, call, fail, (name,))
            try:
                save_epoch(run_dir, 3)
            except OSError as error:
                assert error.errno == code
        assert recoverable_epochs(run_dir) <= {2, 3}
        assert not list(run_dir.path.rglob("*.tmp"))
        if calls.count < call:
            break
    assert call > 3


def test_flipped_bits_and_truncation_are_detected(two_epochs: Path) -> None:
    rng = random.Random(0)
    for name, read in (
        ("checkpoints/last.safetensors", read_checkpoint),
        ("resume/0002-000000.safetensors", safetensors_io.read),
    ):
        intact = (two_epochs / name).read_bytes()
        path = two_epochs / "damaged.safetensors"
        for _ in range(100):
            bit = rng.randrange(len(intact) * 8)
            flipped = bytearray(intact)
            flipped[bit // 8] ^= 1 << bit % 8
            for data in (bytes(flipped), intact[: rng.randrange(len(intact))]):
                path.write_bytes(data)
                with pytest.raises(CheckpointError, match=r"damaged\.safetensors"):
                    read(path)


def test_damaged_resume_file_is_skipped_with_one_warning(two_epochs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = RunDir(two_epochs)
    newest = run_dir.resume / "0002-000000.safetensors"
    newest.write_bytes(newest.read_bytes()[:-9])
    _, document, tensors = run_dir.newest_resume() or (None, {}, {})
    assert document["epoch"] == 1 and np.array_equal(tensors["weight"], tiny_tensors(1)["weight"])
    assert capsys.readouterr().out.count("warning") == 1
    save_epoch(run_dir, 2)
    assert sorted(p.name for p in run_dir.resume.glob("*.safetensors")) == [
        "0001-000000.safetensors",
        "0002-000000.safetensors",
    ]


def test_resume_files_are_not_ordered_by_modification_time(two_epochs: Path) -> None:
    run_dir = RunDir(two_epochs)
    year = 365 * 24 * 3600
    os.utime(run_dir.resume / "0002-000000.safetensors", (time.time() - year, time.time() - year))
    os.utime(run_dir.resume / "0001-000000.safetensors", (time.time() + year, time.time() + year))
    save_epoch(run_dir, 3)
    assert sorted(p.name for p in run_dir.resume.iterdir()) == ["0002-000000.safetensors", "0003-000000.safetensors"]


def test_non_finite_weights_are_not_saved(two_epochs: Path) -> None:
    with pytest.raises(TrainingError, match="weight contains NaN or infinity"):
        RunDir(two_epochs).save_resume(3, 0, {"epoch": 3}, {"weight": np.array([1, np.inf], np.float32)})
    assert recoverable_epochs(RunDir(two_epochs)) == {2}


def inject_nan(monkeypatch: pytest.MonkeyPatch, at: int, check_every: int) -> None:
    """Make the loss of the n-th training batch NaN, and check the loss every `check_every` steps, as on a GPU."""
    original_step, original_check, calls = TrainStep._forward_backward, TrainLoop.check_finite, [0]

    def forward_backward(self: TrainStep, images: object, *rest: object) -> object:
        calls[0] += 1
        scale = self.scale
        self.scale = scale * float("nan") if calls[0] == at else scale
        try:
            return original_step(self, images, *rest)  # type: ignore[arg-type]
        finally:
            self.scale = scale

    def check_finite(self: TrainLoop, epoch: int, number: int) -> None:
        self.check_every = check_every
        if number % check_every == 0:
            original_check(self, epoch, number)

    monkeypatch.setattr(TrainStep, "_forward_backward", forward_backward)
    monkeypatch.setattr(TrainLoop, "check_finite", check_finite)


def test_non_finite_loss_stops_before_update_and_names_files(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    """Whether the loss is checked at each step or some steps later, no step after the NaN changes the weights."""
    runs: list[Trainer] = []
    original = Trainer.__init__

    def init(self: Trainer, *arguments: object) -> None:
        runs.append(self)
        original(self, *arguments)  # type: ignore[arg-type]

    for check_every in (1, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "__init__", init)
            inject_nan(patch, at=5, check_every=check_every)  # the second step of the second epoch
            run_dir = tmp_path / str(check_every)
            code, _, err = cli("train", "--model", "ddunet", "--data", scenes, "--epochs", 3, "--run", run_dir, *TINY)
        assert code == 1 and "epoch 2, step 2: the loss (nan) is not finite" in err
        assert err.count("_leftImg8bit.png") == 2
        assert [p.name for p in (run_dir / "resume").iterdir()] == ["0001-000000.safetensors"]
    first, second = ([p.detach().numpy() for p in run.network.parameters()] for run in runs)
    assert all(np.array_equal(a, b) and np.isfinite(a).all() for a, b in zip(first, second, strict=True))


def test_full_disk_stops_run_with_resume_command(
    scenes: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_resume = RunDir.save_resume

    def save_to_full_disk(self: RunDir, epoch: int, *rest: object) -> None:
        if epoch == 2:
            monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        save_resume(self, epoch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(RunDir, "save_resume", save_to_full_disk)
    run_dir = tmp_path / "r"
    code, _, err = cli("train", "--model", "ddunet", "--data", scenes, "--epochs", 3, "--run", run_dir, *TINY)
    assert code == 1 and "can't be written (No space left on device)" in err and f"--run {run_dir} --resume" in err
    monkeypatch.undo()
    assert "resuming after epoch 1" in cli("train", "--run", run_dir, "--resume")[1]


def test_unwritable_tensorboard_directory_gives_one_warning(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "tensorboard").touch()  # A file, because root can write to any directory.
    code, out, _ = cli("train", "--model", "ddunet", "--data", scenes, "--epochs", 2, "--run", tmp_path / "r", *TINY)
    assert code == 0 and out.count("warning") == 1 and "TensorBoard log not written" in out
    assert (tmp_path / "r" / "checkpoints" / "epoch-0002.safetensors").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # raised by TensorBoard's writer thread
def test_tensorboard_write_error_gives_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = TensorBoardLogger(tmp_path / "tensorboard", 1)
    assert logger.writer
    file = logger.writer._get_file_writer().event_writer._general_file_writer  # type: ignore[no-untyped-call]
    file.flush = file.write = lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))
    for epoch in (1, 2):
        logger.write({"epoch": epoch, "val_loss": 1.0}, lambda: np.zeros((4, 4, 3), np.uint8))
    logger.close()
    assert capsys.readouterr().out.count("warning") == 1


def test_curves_are_drawn_if_run_name_contains_math_markup(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    run_dir = tmp_path / "$_$"
    code, out, _ = cli("train", "--model", "ddunet", "--data", scenes, "--epochs", 1, "--run", run_dir, *TINY)
    assert code == 0 and "warning" not in out and (run_dir / "curves.png").exists()


@pytest.mark.parametrize(("name", "path"), [
    ("draw_curves", "curves.png"),
    ("sample_grid", "tensorboard"),
    ("add_scalar", None),
])  # fmt: skip
def test_failing_plot_gives_one_warning(
    scenes: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, name: str, path: str | None
) -> None:
    class UnexpectedError(Exception):
        pass

    def fail(*_: object) -> None:
        raise UnexpectedError("first line\nsecond line")

    if path is None:
        monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", fail)
    else:
        monkeypatch.setattr(f"training.tracking.recorder.{name}", fail)
    run_dir = tmp_path / "r"
    code, out, err = cli("train", "--model", "ddunet", "--data", scenes, "--epochs", 2, "--run", run_dir, *TINY)
    assert code == 0 and out.count("warning") == 1 and "Traceback" not in err
    assert f"warning: {run_dir / (path or 'tensorboard')}: " in out
    assert "not written (UnexpectedError: first line second line); training continues" in out
    assert (run_dir / "checkpoints" / "epoch-0002.safetensors").exists() and len(RunDir(run_dir).read_history()) == 2


def test_second_writer_is_rejected(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    with lock_run_dir(tmp_path / "r"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.tracking.lock.WAIT_S", 0.1)
        patch.setattr(lock_run_dir.__wrapped__, "__defaults__", (0.1,))  # type: ignore[attr-defined]
        code, _, err = cli("train", "--model", "ddunet", "--data", scenes, "--run", tmp_path / "r", *TINY)
    assert code == 2 and f"is being written by process {os.getpid()} on " in err
    assert cli("train", "--model", "ddunet", "--data", scenes, "--run", tmp_path / "r", "--epochs", 1, *TINY)[0] == 0


def test_hanging_reader_ends_process_with_error(scenes: Path, tmp_path: Path) -> None:
    program = (
        "import time; from training.data.cache import CachedDataset as C; "
        "C.__getitem__ = lambda *_: time.sleep(1000); "
        "import runpy; runpy.run_module('training', run_name='__main__')"
    )
    flags = ("train", "--model", "ddunet", "--data", scenes, "--run", tmp_path / "r", "--timeout", 1, *TINY)
    completed = subprocess.run(
        [sys.executable, "-c", program, *map(str, flags)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert completed.returncode == 1
    assert "error: epoch 1, step 1: no batch within 1 s: " in completed.stderr and "_leftImg8bit.png" in completed.stderr


def test_second_signal_stops_immediately(scenes: Path, tmp_path: Path) -> None:
    run = TrainingRun(scenes, tmp_path / "r", flags=("--batch-size", 2), slow_event="steps")
    process = run.start()
    assert run.wait_for_events(process, 2), run.finish(process)
    process.send_signal(signal.SIGTERM)
    time.sleep(3)  # An earlier second signal would count as a repetition of the first.
    assert process.poll() is None  # It waits for the end of a step that never ends.
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == -signal.SIGTERM
    run.slow_event = ""
    run.run_to_completion()
    assert not list(run.run_dir.rglob("*.tmp"))


SHORT_FLAGS = ("--batch-size", 2, "--epochs", 2)


@pytest.fixture(scope="module")
def uninterrupted(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    """A completed run of six steps in two processes."""
    run = TrainingRun(scenes, tmp_path_factory.mktemp("uninterrupted") / "r", 2, SHORT_FLAGS)
    run.run_to_completion()
    return run


@pytest.mark.parametrize("event", ["validation", "save"])
def test_signal_during_validation_or_save_loses_no_step(
    scenes: Path, uninterrupted: TrainingRun, tmp_path: Path, event: str
) -> None:
    run = TrainingRun(scenes, tmp_path / "r", 2, SHORT_FLAGS, slow_event=event)
    process = run.start()
    assert run.wait_for_events(process, 1, event=event), run.finish(process)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert run.finish(process) == 0, run.outputs[-1]
    assert time.monotonic() - began < 20
    assert f"stopped; resume with: python -m training train --run {run.run_dir} --resume" in run.outputs[-1]
    # No step is repeated: a signal during a save takes effect after the next step.
    names = [p.stem for p in (run.run_dir / "resume").iterdir()]
    assert ("0000-000003" if event == "validation" else "0000-000002") in names
    run.slow_event = ""
    run.run_to_completion()
    assert run.count_events() == uninterrupted.count_events() == 6
    assert run_differences(run.run_dir, uninterrupted.run_dir, epochs=2) == []


def test_hanging_rank_restarts_all_ranks_after_timeout(scenes: Path, uninterrupted: TrainingRun, tmp_path: Path) -> None:
    run = TrainingRun(scenes, tmp_path / "r", 2, (*SHORT_FLAGS, "--timeout", 5))
    process = run.start()
    assert run.wait_for_events(process, 3), run.finish(process)
    os.kill(run.worker_pids(process)[1], signal.SIGSTOP)
    assert run.finish(process) == 0, run.outputs[-1]
    assert "restarting all processes from the newest checkpoint (restart 1 of 3)" in run.outputs[-1]
    assert run_differences(run.run_dir, uninterrupted.run_dir, epochs=2) == []


def test_permanent_error_is_not_retried(uninterrupted: TrainingRun, tmp_path: Path) -> None:
    run = replace(uninterrupted, run_dir=tmp_path / "r")
    shutil.copytree(uninterrupted.run_dir, run.run_dir)
    for path in (run.run_dir / "resume").iterdir():
        path.write_bytes(b"torn")
    process = run.start()
    assert run.finish(process) == 1
    assert "none of the 2 resume files is intact" in run.outputs[-1] and "restarting all" not in run.outputs[-1]


def test_restarts_are_limited(scenes: Path, tmp_path: Path) -> None:
    run = TrainingRun(scenes, tmp_path / "r", 2, ("--batch-size", 2, "--max-restarts", 1))
    process = run.start()
    for _ in range(2):
        assert run.wait_for_events(process, 1), run.finish(process)
        os.kill(run.worker_pids(process)[1], signal.SIGKILL)
    assert run.finish(process) == 1
    assert "was killed by SIGKILL; giving up after 1 restarts" in run.outputs[-1]


def test_other_world_size_is_recorded_as_not_reproducible(scenes: Path, tmp_path: Path) -> None:
    run = TrainingRun(scenes, tmp_path / "r", 2, ("--batch-size", 2, "--epochs", 2))
    process = run.start()
    assert run.wait_for_events(process, 4), run.finish(process)
    process.send_signal(signal.SIGTERM)
    assert run.finish(process) == 0
    run.processes = 1
    run.run_to_completion()
    assert "warning: world_size 1 instead of 2, threads 2 instead of 1: training continues, but" in run.outputs[-1]
    starts = json.loads((run.run_dir / "config.json").read_text())["starts"]
    assert [(start["world_size"], start["bitwise_reproducible"]) for start in starts] == [(2, True), (1, False)]


def test_restart_by_torchrun_resumes(scenes: Path, uninterrupted: TrainingRun, tmp_path: Path) -> None:
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2")
    run = TrainingRun(scenes, tmp_path / "r", 2, SHORT_FLAGS, program=(*torchrun, "-m", "--", "tests.support.traced_training"))
    process = run.start()
    assert run.wait_for_events(process, 3), run.finish(process)
    kill_rank(run, process, random.Random(0))
    assert run.finish(process) == 0, run.outputs[-1]
    assert "resuming after epoch 0, step 2" in run.outputs[-1] and run.count_events() > 6
    assert run_differences(run.run_dir, uninterrupted.run_dir, epochs=2) == []


def test_missing_resume_files_do_not_restart_finished_run(uninterrupted: TrainingRun, tmp_path: Path, cli: Cli) -> None:
    run_dir = tmp_path / "r"
    shutil.copytree(uninterrupted.run_dir, run_dir)
    for path in (run_dir / "resume").iterdir():
        path.unlink()
    history = (run_dir / "history.csv").read_bytes()
    code, _, err = cli("train", "--run", run_dir, "--resume")
    assert code == 1 and "contains no resume file, but the run has finished epochs" in err
    assert (run_dir / "history.csv").read_bytes() == history


def test_missing_newest_resume_file_repeats_last_steps(uninterrupted: TrainingRun, tmp_path: Path, cli: Cli) -> None:
    run_dir = tmp_path / "r"
    shutil.copytree(uninterrupted.run_dir, run_dir)
    (run_dir / "resume" / "0002-000000.safetensors").unlink()
    code, out, _ = cli("train", "--run", run_dir, "--resume")
    assert code == 0 and "the later epochs are trained again" in out and "resuming after epoch 1, step 2" in out


def test_checkpoint_in_resume_directory_is_rejected(uninterrupted: TrainingRun, tmp_path: Path, cli: Cli) -> None:
    run_dir = tmp_path / "r"
    shutil.copytree(uninterrupted.run_dir, run_dir)
    shutil.copy(run_dir / "checkpoints" / "last.safetensors", run_dir / "resume" / "0009-000000.safetensors")
    code, _, err = cli("train", "--run", run_dir, "--resume")
    assert code == 1 and "does not fit this run or program version (no 'kind')" in err and "Traceback" not in err


def test_run_without_config_json_is_not_overwritten(uninterrupted: TrainingRun, scenes: Path, tmp_path: Path, cli: Cli) -> None:
    run_dir = tmp_path / "r"
    shutil.copytree(uninterrupted.run_dir, run_dir)
    (run_dir / "config.json").unlink()
    flags = ("--model", "ddunet", "--data", scenes, "--run", run_dir, *TINY)
    assert cli("train", *flags)[0] == 2
    code, _, err = cli("train", *flags, "--resume")
    assert code == 2 and "config.json: missing from a run directory" in err


def test_signal_before_first_step_exits_with_0(scenes: Path, tmp_path: Path) -> None:
    program = (
        "import time; from training.engine import job; "
        "job.validate_inputs = lambda *_, **__: (print('ready', flush=True), time.sleep(1000)); import runpy\n"
        "runpy.run_module('training', run_name='__main__')"
    )
    flags = ("train", "--model", "ddunet", "--data", scenes, "--run", tmp_path / "r", *TINY)
    process = subprocess.Popen([sys.executable, "-c", program, *map(str, flags)], cwd=ROOT, text=True, stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert "nothing is lost: run the same command again" in process.communicate(timeout=20)[0]
    assert process.returncode == 0


def test_out_of_memory_suggests_cpu_in_one_line(monkeypatch: pytest.MonkeyPatch, checkpoint: Path, cli: Cli) -> None:
    for allocate in (lambda *_: torch.empty(1 << 60), lambda *_: bytes(1 << 60)):
        monkeypatch.setattr("training.inference.Segmenter", allocate)
        code, _, err = cli("predict", checkpoint, checkpoint)
        assert code == 1 and err.startswith("error: not enough memory (") and "--device cpu" in err and err.count("\n") == 1
