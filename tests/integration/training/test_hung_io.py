"""Pictures that do not come: a stop is granted all the same, and what hangs is named."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from core.data.datasets import FolderDataset
from core.runtime.threads import at_once, prefetch
from tests.support.kill_resume import ROOT, Victim

Cli = Callable[..., tuple[int, str, str]]
TINY = ("--model", "ddunet", "--width", 2, "--size", 32, 64, "--batch-size", 2)


@pytest.mark.parametrize("cache", ["cache", "none"])
def test_a_file_that_hangs_at_the_first_look_is_named(
    scenes: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    read = FolderDataset.__getitem__

    def slow(self: FolderDataset, index: int) -> object:
        if (self.split, index) == ("train", 2):
            time.sleep(3)
        return read(self, index)

    monkeypatch.setattr(FolderDataset, "__getitem__", slow)
    cache = str(tmp_path / cache) if cache == "cache" else cache
    code, _, err = cli("train", "--data", scenes, "--run", tmp_path / "r", "--timeout", 1, "--cache", cache, *TINY)
    assert code == 1 and "generated_000002_000019_leftImg8bit.png: could not be read in 1 s" in err
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_stop_is_granted_while_pictures_do_not_come(scenes: Path, tmp_path: Path, split: str) -> None:
    program = (
        "import os, runpy, time; from training.data.cache import CachedDataset as C; read = C.__getitem__\n"
        "def get(self, index):\n"
        f"    if self.split == {split!r} and index:\n"
        "        os.write(1, b'here\\n')\n"
        "        time.sleep(1000)\n"
        "    return read(self, index)\n"
        "C.__getitem__ = get; runpy.run_module('training', run_name='__main__')"
    )
    flags = ("train", "--data", scenes, "--run", tmp_path / "r", *TINY)
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, flags)], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    assert any("here" in line for line in iter(process.stdout.readline, ""))
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0 and "stopped; go on with: " in out and "once more stops at once" in err
    steps = 0 if split == "train" else 3
    assert (tmp_path / "r" / "resume" / f"0000-{steps:06d}.safetensors").is_file()


@pytest.mark.parametrize(("split", "told"), [("train", "0000-000001"), ("val", "0000-000003")])
def test_ranks_stop_together_while_the_pictures_of_one_do_not_come(scenes: Path, tmp_path: Path, split: str, told: str) -> None:
    program = tmp_path / "slow.py"
    program.write_text(
        "import os, time; from training.data.cache import CachedDataset as C; read, seen = C.__getitem__, [0]\n"
        "def get(self, index):\n"
        f"    seen[0] += self.split == {split!r}\n"
        "    if os.environ.get('RANK') == '1' and seen[0] == 2:\n"
        "        os.write(1, b'here\\n')\n"
        "        time.sleep(1000)\n"
        "    return read(self, index)\n"
        "C.__getitem__ = get\n"
        "import tests.support.traced_training as traced; from training import launcher\n"
        "launcher.PROGRAM = (*launcher.PROGRAM[:1], __file__)\n"
        "traced.sys.exit(traced.main()) if 'RANK' not in os.environ else os._exit(traced.main())\n"
    )
    victim = Victim(scenes, tmp_path / "r", 2, ("--batch-size", 2, "--workers", 1), program=(sys.executable, str(program)))
    process = victim.start()
    assert process.stdout and any("here" in line for line in iter(process.stdout.readline, ""))
    time.sleep(2)  # rank 0 waits for the other one
    process.send_signal(signal.SIGTERM)
    assert victim.finish(process, 20) == 0 and "stopped; go on with: " in victim.out[-1]
    assert told in [path.stem for path in (tmp_path / "r" / "resume").iterdir()]


def test_a_label_that_changes_its_size_later_is_named(
    plain: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.engine.trainer import Run

    start = Run.start

    def spoil(self: Run) -> object:
        for path in (plain / "labels" / "train").iterdir():
            cv2.imwrite(str(path), np.ones((9, 9), np.uint8))
        return start(self)

    monkeypatch.setattr(Run, "start", spoil)
    code, _, err = cli("train", "--data", plain, "--run", tmp_path / "r", "--cache", "none", *TINY)
    assert code == 2 and ".jpg: its label is 9x9, its photograph " in err


def test_results_at_once_are_those_one_after_another() -> None:
    assert at_once(lambda x: x * x, range(100)) == [x * x for x in range(100)]
    assert at_once(str, [3]) == ["3"] and at_once(str, []) == []


def test_an_error_among_results_at_once_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        at_once(lambda x: 1 / x, [1, 0, 2])


def test_whoever_waits_for_a_result_may_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor
    from threading import Event

    monkeypatch.setattr("core.runtime.threads.SLICE_S", 0.01)
    over = Event()
    asked = []

    def give_up() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as pool, pytest.raises(KeyboardInterrupt):
        try:
            next(prefetch(pool, lambda _: over.wait(), [0], 1, None, give_up))
        finally:
            over.set()
    assert len(asked) == 3
