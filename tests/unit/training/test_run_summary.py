"""What a run says on the terminal before its first step and after some: sizes that are right, times that people read."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from core.checkpoints.checkpoint import Architecture
from core.models import build_model
from training.tracking.eta import Forecast, duration
from training.tracking.model_size import parameters, saved_bytes


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (200, "3 min 20 s"),
        (2700, "45 min"),
        (18_720, "5 h 12 min"),
        (176_400, "2 d 1 h"),
        (273_600, "3 d 4 h"),
    ],
)
def test_a_duration_is_read_at_a_glance(seconds: float, told: str) -> None:
    assert duration(seconds) == told


@pytest.mark.parametrize("name", ["unet", "r2unet", "ddunet"])
def test_what_a_step_keeps_is_what_it_really_keeps(name: str) -> None:
    architecture, kept = Architecture(name=name, width=4), {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    network = build_model(name, 19, 4).train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = network(torch.randn(2, 3, 64, 96))
    assert saved_bytes(architecture, 19, (64, 96)) == pytest.approx(sum(kept.values()) / 2, rel=0.02)
    assert parameters(architecture, 19) == sum(p.numel() for p in network.parameters())
    del logits
    gc.collect()


def test_the_screen_tells_what_will_happen(scenes: Path, tmp_path: Path, cli) -> None:
    flags = ("--width", 4, "--size", 32, 64, "--batch-size", 2, "--workers", 0, "--epochs", 2, "--run", tmp_path / "runs" / "r")
    code, out, _ = cli("train", "--model", "ddunet", "--data", scenes, *flags)
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    weights = parameters(Architecture(name="ddunet", width=4), 19)
    assert f"ddunet, width 4: {weights:,} parameters" in lines["model"] and "GFLOP a picture of 32x64" in lines["model"]
    assert "6 training and 5 validation images, 19 classes" in lines["data"]
    assert "2 of 3 steps of 2 images" in lines["epochs"]
    assert "about " in lines["memory"] and "the CPU" in lines["devices"]
    assert f"tensorboard --logdir {tmp_path / 'runs'}" in lines["curves"]
    assert "those of 2 epochs" in lines["time"]


def test_the_time_is_told_once_and_not_by_the_first_step(capsys: pytest.CaptureFixture[str]) -> None:
    forecast = Forecast(10)
    for step in range(1, 50):
        forecast.step(step, 100)
        assert bool(capsys.readouterr().out) == (step == 20)
