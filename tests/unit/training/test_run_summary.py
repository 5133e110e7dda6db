"""Tests of training.tracking.run_summary: model sizes, memory and the estimated training time."""

from __future__ import annotations

import pytest
import torch

from core.checkpoints.checkpoint import Architecture
from core.models import build_model
from training.tracking.run_summary import WARMUP_STEPS, EtaPrinter, activation_bytes, count_parameters, format_duration


@pytest.mark.parametrize(
    ("seconds", "expected"),
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
def test_format_duration_has_at_most_two_units(seconds: float, expected: str) -> None:
    assert format_duration(seconds) == expected


@pytest.mark.parametrize("name", ["unet", "r2unet", "ddunet"])
def test_activation_bytes_match_saved_tensors(name: str) -> None:
    architecture = Architecture(name=name, width=4)
    saved: dict[int, torch.UntypedStorage] = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    network = build_model(name, 19, 4).train()
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        network(torch.randn(2, 3, 64, 96))
    bytes_per_image = sum(storage.nbytes() for storage in saved.values()) / 2
    assert activation_bytes(architecture, 19, (64, 96)) == pytest.approx(bytes_per_image, rel=0.02)


@pytest.mark.parametrize("name", ["unet", "r2unet", "ddunet"])
def test_count_parameters_matches_network(name: str) -> None:
    expected = sum(p.numel() for p in build_model(name, 19, 4).parameters())
    assert count_parameters(Architecture(name=name, width=4), 19) == expected


def test_eta_is_printed_once_after_warmup(capsys: pytest.CaptureFixture[str]) -> None:
    eta = EtaPrinter(10)
    for step in range(1, 50):
        eta.step(step, 100)
        assert bool(capsys.readouterr().out) == (step == WARMUP_STEPS)


def run_epoch(eta: EtaPrinter, clock: list[float], steps: int, seconds_per_step: float) -> None:
    """Let an EtaPrinter see an epoch whose steps take `seconds_per_step` by a clock that is stopped otherwise."""
    for step in range(1, steps + 1):
        clock[0] += seconds_per_step
        eta.step(step, steps)
    eta.end_epoch(steps)


def test_epoch_that_takes_twice_the_estimate_is_reported_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock, eta = [0.0], EtaPrinter(4)
    monkeypatch.setattr("training.tracking.run_summary.time.perf_counter", lambda: clock[0])
    for seconds_per_step, expected in ((1, 0), (1.4, 0), (2, 1), (3, 0)):
        run_epoch(eta, clock, 101, seconds_per_step)
        out = capsys.readouterr().out
        assert out.count("took 2.0 times as long as estimated") == out.count("warning") == expected


def test_slow_epoch_of_a_few_seconds_is_not_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock, eta = [0.0], EtaPrinter(2)
    monkeypatch.setattr("training.tracking.run_summary.time.perf_counter", lambda: clock[0])
    for seconds_per_step in (0.1, 1):
        run_epoch(eta, clock, 3, seconds_per_step)
    assert "warning" not in capsys.readouterr().out
