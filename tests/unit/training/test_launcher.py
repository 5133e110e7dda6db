"""Tests of training.distributed: the launcher and its signals."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from core.models import build_model
from training.distributed import launcher
from training.distributed.context import DistributedContext
from training.distributed.launcher import processes_to_launch
from training.distributed.signals import StopRequest
from training.engine.network import to_device


@pytest.mark.parametrize(("gpus", "expected"), [(None, 4), (2, 2), (9, 4), (0, 1)])
def test_one_process_per_gpu(monkeypatch: pytest.MonkeyPatch, gpus: int | None, expected: int) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert processes_to_launch(gpus) == expected


def test_rank_of_running_launcher_launches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setitem(os.environ, "RANK", "0")
    assert processes_to_launch(None) == 1


def test_batch_norm_is_synchronized_across_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, **_: self)  # The test has no GPU.
    network = to_device(build_model("r2unet", base_channels=2), DistributedContext(rank=0, world_size=2, device_name="cuda:0"))
    names = {type(m).__name__ for m in network.modules() if "BatchNorm" in type(m).__name__}
    assert names == {"SyncBatchNorm"}


def test_unwritable_error_report_raises_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(launcher.FATAL_ERROR_ENV, str(tmp_path / "missing" / "fatal-error"))
    launcher.report_fatal_error(2)


def test_stop_message_describes_how_to_resume() -> None:
    assert launcher.stop_message(0).endswith("run the same command again")
    assert launcher.stop_message(1).endswith("run the same command again with --resume")


def test_stop_is_requested_if_output_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_pipe(*_: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr("training.distributed.signals.os.write", broken_pipe)
    stop = StopRequest(announce=True)
    stop.handle_signal(signal.SIGINT, None)
    assert stop.requested
