"""Tests of programs whose files cannot be read in time: the file is named, and a signal still stops the program."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from core.data.datasets import DirectoryDataset
from tests.support.cli import Cli
from tests.support.paths import ROOT
from tests.support.service_process import ServiceProcess
from tests.support.training_process import TrainingRun
from tests.support.wait import wait_until
from training.engine.trainer import Trainer

TINY = ("--model", "ddunet", "--width", 2, "--size", 32, 64, "--batch-size", 2)


@pytest.mark.parametrize("cache", ["cache", "none"])
def test_file_that_hangs_during_validation_is_named(
    scenes: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    read = DirectoryDataset.__getitem__

    def read_slowly(self: DirectoryDataset, index: int) -> object:
        if (self.split, index) == ("train", 2):
            time.sleep(3)
        return read(self, index)

    monkeypatch.setattr(DirectoryDataset, "__getitem__", read_slowly)
    cache = str(tmp_path / cache) if cache == "cache" else cache
    code, _, err = cli("train", "--data", scenes, "--run", tmp_path / "r", "--timeout", 1, "--cache", cache, *TINY)
    assert code == 1 and "generated_000002_000019_leftImg8bit.png: could not be read in 1 s" in err
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_signal_stops_run_while_file_hangs(scenes: Path, tmp_path: Path, split: str) -> None:
    program = (
        "import os, runpy, time; from training.data.cache import CachedDataset as C; read = C.__getitem__\n"
        "def get(self, index):\n"
        f"    if self.split == {split!r} and index:\n"
        "        os.write(1, b'blocked\\n')\n"
        "        time.sleep(1000)\n"
        "    return read(self, index)\n"
        "C.__getitem__ = get; runpy.run_module('training', run_name='__main__')"
    )
    flags = ("train", "--data", scenes, "--run", tmp_path / "r", *TINY)
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, flags)], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    assert any("blocked" in line for line in iter(process.stdout.readline, ""))
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0 and "stopped; resume with: " in out and "repeat the signal to stop immediately" in err
    steps = 0 if split == "train" else 3
    assert (tmp_path / "r" / "resume" / f"0000-{steps:06d}.safetensors").is_file()


@pytest.mark.parametrize(("split", "resume_file"), [("train", "0000-000001"), ("val", "0000-000003")])
def test_signal_stops_all_ranks_while_file_of_one_hangs(scenes: Path, tmp_path: Path, split: str, resume_file: str) -> None:
    program = tmp_path / "slow.py"
    program.write_text(
        "import os, time; from training.data.cache import CachedDataset as C; read, calls = C.__getitem__, [0]\n"
        "def get(self, index):\n"
        f"    calls[0] += self.split == {split!r}\n"
        "    if os.environ.get('RANK') == '1' and calls[0] == 2:\n"
        "        os.write(1, b'blocked\\n')\n"
        "        time.sleep(1000)\n"
        "    return read(self, index)\n"
        "C.__getitem__ = get\n"
        "import tests.support.traced_training as traced; from training.distributed import launcher\n"
        "launcher.PROGRAM = (*launcher.PROGRAM[:1], __file__)\n"
        "traced.sys.exit(traced.main()) if 'RANK' not in os.environ else os._exit(traced.main())\n"
    )
    run = TrainingRun(scenes, tmp_path / "r", 2, ("--batch-size", 2, "--workers", 1), program=(sys.executable, str(program)))
    process = run.start()
    assert process.stdout and any("blocked" in line for line in iter(process.stdout.readline, ""))
    time.sleep(2)  # Rank 0 now waits for rank 1.
    process.send_signal(signal.SIGTERM)
    assert run.finish(process, 20) == 0 and "stopped; resume with: " in run.outputs[-1]
    assert resume_file in [path.stem for path in (tmp_path / "r" / "resume").iterdir()]


def test_label_resized_after_validation_is_named(
    plain_dataset: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore_or_initialize = Trainer.restore_or_initialize

    def change_labels(self: Trainer) -> object:
        for path in (plain_dataset / "labels" / "train").iterdir():
            cv2.imwrite(str(path), np.ones((9, 9), np.uint8))
        return restore_or_initialize(self)

    monkeypatch.setattr(Trainer, "restore_or_initialize", change_labels)
    code, _, err = cli("train", "--data", plain_dataset, "--run", tmp_path / "r", "--cache", "none", *TINY)
    assert code == 2 and ".jpg: its label is 9x9, its image " in err


def test_signal_stops_service_while_image_of_evaluation_hangs(scenes: Path, checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes, tmp_path / "data")
    image = next((tmp_path / "data").glob("leftImg8bit/val/*/*.png"))
    image.unlink()
    os.mkfifo(image)  # Opening it blocks, because nothing writes to it.
    service = ServiceProcess(tmp_path, SEGMENT_CHECKPOINTS=checkpoint, SEGMENT_DATA=tmp_path / "data")
    try:
        service.wait_until_ready()
        location = httpx.post(f"{service.url}/evaluate").headers["location"]
        wait_until(lambda: httpx.get(f"{service.url}{location}").json()["state"] == "running")
        service.process.send_signal(signal.SIGTERM)
        assert service.wait_for_exit()[0] == 0
    finally:
        service.kill()
