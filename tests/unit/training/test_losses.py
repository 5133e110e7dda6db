"""Losses, averages, schedules and memory against what others compute."""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchmetrics.functional.segmentation import dice_score

from core.backends.torch_cpu import to_tensors
from core.checkpoints import safetensors_io
from core.checkpoints.checkpoint import read_checkpoint
from core.images.resize import Preprocess
from core.models import build_model
from core.models.r2unet import RecurrentResidualBlock
from training.data.loader import Batch
from training.distributed.context import World
from training.engine.ema import Average
from training.engine.loop import learning_rates
from training.engine.losses import EPSILON, Loss, class_weights
from training.engine.network import use_bf16
from training.engine.step import Step, Sums

Cli = Callable[..., tuple[int, str, str]]
TINY = ("--model", "ddunet", "--width", 2, "--size", 32, 64, "--batch-size", 2)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    labels = torch.randint(0, 5, (3, 8, 9), dtype=torch.uint8)
    labels[1, :4] = 255
    return torch.randn(3, 5, 8, 9), labels


def share(kind: str, weights: torch.Tensor | None, logits: torch.Tensor, labels: torch.Tensor) -> float:
    loss = Loss(kind, weights, ranks=1)
    return float(loss(logits, labels, loss.total(labels)))


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 0.5, 4.0, 1.5])])
def test_cross_entropy_is_torch_s_mean(batch: tuple[torch.Tensor, torch.Tensor], weights: torch.Tensor | None) -> None:
    logits, labels = batch
    expected = F.cross_entropy(logits, labels.long(), weights, ignore_index=255)
    assert share("ce", weights, logits, labels) == pytest.approx(float(expected), rel=1e-6)


def test_dice_of_certain_predictions_is_torchmetrics_dice(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    labels = batch[1].clamp(max=4).long()
    predicted = torch.randint(0, 5, labels.shape)
    certain = F.one_hot(predicted, 5).permute(0, 3, 1, 2).float() * 200
    # torchmetrics scores each picture: one picture that holds them all is the whole batch
    flat = [x.reshape(1, -1, 1) for x in (predicted, labels)]
    expected = dice_score(*flat, num_classes=5, average="macro", input_format="index")
    assert share("dice", None, certain, labels.to(torch.uint8)) == pytest.approx(1 - float(expected), abs=EPSILON / 40)


def test_dice_leaves_void_and_absent_classes_out() -> None:
    labels = torch.tensor([[[0, 0, 255, 255]]], dtype=torch.uint8)
    logits = torch.zeros(1, 3, 1, 4)
    logits[:, 0] = 100
    right = share("dice", None, logits, labels)
    logits[:, :, :, 2:] = torch.tensor([0.0, 100.0, 0.0]).view(1, 3, 1, 1)  # under void anything may stand
    assert right == share("dice", None, logits, labels) == pytest.approx(0, abs=1e-6)


def test_both_losses_add_up(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    both = share("ce", None, *batch) + share("dice", None, *batch)
    assert share("ce+dice", None, *batch) == pytest.approx(both, rel=1e-6)


def test_a_batch_of_void_has_no_loss_and_no_gradient(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits = batch[0].requires_grad_()
    labels = torch.full_like(batch[1], 255)
    loss = Loss("ce+dice", None, 1)
    loss(logits, labels, loss.total(labels)).backward()
    assert logits.grad is not None and not logits.grad.any()


def test_class_weights_are_enet_s() -> None:
    weights = class_weights([75, 25, 0], torch.device("cpu"))
    assert weights.tolist() == pytest.approx([1 / np.log(1.77), 1 / np.log(1.27), 1 / np.log(1.02)])


def test_the_rate_rises_then_falls() -> None:
    rates = [rate for epoch in range(1, 5) for rate in learning_rates("cosine", 0.1, epoch, 4, 10, warmup=1)]
    assert rates[:10] == pytest.approx([0.01 * n for n in range(1, 11)])
    assert rates[10] == 0.1 and rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] < 1e-3
    assert learning_rates("constant", 0.1, 1, 4, 4, warmup=0.5) == pytest.approx([0.05, 0.1, 0.1, 0.1])


def test_torch_s_own_schedule_gives_the_same_cosine() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    for rate in (rate for epoch in (1, 2) for rate in learning_rates("cosine", 0.1, epoch, 2, 10)):
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()


def test_recomputed_steps_give_the_same_gradients_and_statistics() -> None:
    torch.manual_seed(0)
    plain = build_model("r2unet", 5, 4).train()
    again = copy.deepcopy(plain)
    for layer in again.modules():
        if isinstance(layer, RecurrentResidualBlock):
            layer.recompute = True
    for network in (plain, again):
        torch.manual_seed(1)
        for _ in range(2):
            network(torch.randn(2, 3, 32, 32)).square().mean().backward()
    for a, b in zip(plain.parameters(), again.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None and torch.equal(a.grad, b.grad)
    ours, theirs = to_tensors(plain), to_tensors(again)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_a_run_with_everything_trains(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    flags = ("--loss", "ce+dice", "--class-weights", "data", "--clip", 1, "--ema", 0.5, "--accumulate", 2, "--warmup", 1)
    flags += ("--precision", "bf16", "--schedule", "cosine", "--epochs", 3, "--batch-size", 2)
    code, out, _ = cli("train", "--data", scenes, "--run", tmp_path / "r", *TINY, *flags)
    assert code == 0 and "epoch 3/3" in out


def test_the_average_follows_as_it_is_defined() -> None:
    network = torch.nn.BatchNorm1d(1)
    average, expected = Average(network, decay=0.5), 1.0
    for update in range(12):
        network.weight.data.fill_(update)
        network.num_batches_tracked.fill_(update)
        average.update()
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * update
        assert average.network.weight.item() == pytest.approx(expected)
        assert int(average.network.num_batches_tracked) == update


def test_the_average_is_what_is_served(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    for name, flags in (("average", ("--ema", 0.9)), ("none", ())):
        assert cli("train", "--data", scenes, "--run", tmp_path / name, *TINY, "--epochs", 1, *flags)[0] == 0
    resume = safetensors_io.read(tmp_path / "average" / "resume" / "0001-000000.safetensors")[1]
    served = {n: read_checkpoint(tmp_path / n / "checkpoints/last.safetensors").tensors for n in ("average", "none")}
    name = "encoder.0.0.0.weight"
    assert np.array_equal(served["average"][name], resume[f"average.{name}"])
    assert np.array_equal(served["none"][name], resume[f"network.{name}"])
    assert not np.array_equal(served["average"][name], served["none"][name])


def test_patience_ends_a_run_that_gets_no_better(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    flags = ("--data", scenes, "--run", tmp_path / "r", *TINY, "--learning-rate", 1e-12, "--patience", 2)
    code, out, _ = cli("train", *flags, "--epochs", 50)
    assert code == 0 and "no better score in 2 epochs" in out and "epoch 9/50" not in out
    assert "no better score in 2 epochs" in cli("train", "--run", tmp_path / "r", "--resume")[1]


def test_parts_of_a_batch_give_its_gradient_where_there_is_no_batch_norm() -> None:
    """Three parts of unequal validity add up to the whole: see also the ranks in test_distributed."""
    torch.manual_seed(0)
    logits = torch.randn(6, 5, 4, 4, requires_grad=True)
    labels = torch.randint(0, 5, (6, 4, 4), dtype=torch.uint8)
    labels[0] = 255
    loss = Loss("ce", None, 1)
    loss(logits, labels, loss.total(labels)).backward()
    expected = logits.grad
    logits.grad = None
    for x, y in zip(logits.tensor_split(3), labels.tensor_split(3), strict=True):
        loss(x, y, loss.total(labels)).backward()
    assert expected is not None and logits.grad is not None and torch.allclose(expected, logits.grad)


def test_an_infinite_loss_with_finite_gradients_makes_no_update() -> None:
    network = build_model("ddunet", 5, 2).train()
    with torch.no_grad():
        network.head.bias[0] = 1e36
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    step, sums = Step(network, network, optimizer, Loss("ce", None, 1), World(), Preprocess()), Sums(5, torch.device("cpu"))
    before = copy.deepcopy(network.state_dict())
    step(Batch(torch.zeros(2, 16, 16, 3, dtype=torch.uint8), torch.ones(2, 16, 16, dtype=torch.uint8)), sums)
    assert torch.isinf(sums.loss[0]) and all(torch.isfinite(p.grad).all() for p in network.parameters())
    assert all(torch.equal(before[name], p) for name, p in network.named_parameters())
    assert (step.calls, int(step.updates)) == (1, 0)


def test_a_validation_loss_that_is_not_finite_is_a_warning_and_an_empty_cell(
    scenes: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.evaluation.metrics.log_loss", lambda *_: (float("inf"), 1))
    code, out, _ = cli("train", "--data", scenes, "--run", tmp_path / "r", "--epochs", 1, *TINY)
    assert code == 0 and "warning: epoch 1: the loss on the validation images is inf" in out
    row = next(csv.DictReader((tmp_path / "r" / "history.csv").open()))
    assert row["val_loss"] == "" and float(row["train_loss"]) > 0


def test_bf16_is_taken_where_the_cpu_has_units_for_it() -> None:
    cpu = torch.device("cpu")
    flags = Path("/proc/cpuinfo").read_text().split()
    assert use_bf16("auto", cpu) == ("avx512_bf16" in flags or "amx_tile" in flags)
    assert use_bf16("bf16", cpu) and not use_bf16("fp32", cpu)


def test_a_part_of_void_alone_takes_no_weight_of_dice() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 5, 4, 4), torch.randint(0, 5, (4, 4, 4), dtype=torch.uint8)
    loss, half = Loss("dice", None, 1), (logits[:2], labels[:2])
    alone = loss(*half, loss.total(half[1]))
    labels[2:] = 255
    total = loss.total(labels)
    assert loss(*half, total) == pytest.approx(float(alone)) and float(loss(logits[2:], labels[2:], total)) == 0
