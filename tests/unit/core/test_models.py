"""Tests of core.models: one contract for all architectures, and the exact parameter counts of the design."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from core.errors import InputError
from core.models import MODELS, build_model
from core.models.r2unet import RecurrentLayer, RecurrentResidualBlock

PARAMETER_COUNTS = {"unet": 31_386_003, "r2unet": 49_546_771, "ddunet": 10_802_451}  # base_channels 64, 19 classes
all_models = pytest.mark.parametrize("name", PARAMETER_COUNTS)


def count_parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def backpropagate_random_batch(name: str) -> torch.nn.Module:
    """Return a small network with the gradients of a random batch."""
    torch.manual_seed(0)
    model = build_model(name, base_channels=8).train()
    images, labels = torch.randn(4, 3, 64, 64), torch.randint(0, 19, (4, 64, 64))
    F.cross_entropy(model(images), labels).backward()
    return model


def test_every_model_has_a_parameter_count() -> None:
    """The tests below run for every registered architecture."""
    assert set(PARAMETER_COUNTS) == set(MODELS)


@all_models
def test_parameter_count_matches_design(name: str) -> None:
    assert count_parameters(build_model(name)) == PARAMETER_COUNTS[name]


@all_models
def test_parameter_count_scales_with_square_of_base_channels(name: str) -> None:
    assert count_parameters(build_model(name, base_channels=16)) == pytest.approx(PARAMETER_COUNTS[name] / 16, rel=0.02)


@all_models
@pytest.mark.parametrize("size", [(1, 1), (1, 37), (33, 47), (64, 64), (65, 16)])
def test_logits_have_input_size(name: str, size: tuple[int, int]) -> None:
    model = build_model(name, num_classes=5, base_channels=2).eval()
    assert model(torch.zeros(2, 3, *size)).shape == (2, 5, *size)


@all_models
def test_every_parameter_has_a_relevant_gradient(name: str) -> None:
    model = backpropagate_random_batch(name)
    sizes = {key: float(p.grad.abs().max()) for key, p in model.named_parameters() if p.grad is not None}
    largest = max(sizes.values())
    assert len(sizes) == len(list(model.parameters()))
    assert {key: size for key, size in sizes.items() if size <= 1e-6 * largest} == {}


@all_models
def test_no_weight_has_zero_gradient(name: str) -> None:
    """A zero would be a kernel element that no input reaches, as with a dilation larger than the feature map."""
    parameters = backpropagate_random_batch(name).named_parameters()
    assert [key for key, p in parameters if p.grad is None or bool((p.grad == 0).any())] == []


@all_models
def test_only_head_convolution_has_bias(name: str) -> None:
    """All other convolutions precede a batch norm, which would cancel a bias."""
    model = build_model(name, base_channels=2)
    biased = [k for k, m in model.named_modules() if isinstance(m, torch.nn.Conv2d) and m.bias is not None]
    assert biased == ["head"]


@all_models
def test_loaded_state_dict_gives_equal_logits(name: str) -> None:
    torch.manual_seed(0)
    first, second = build_model(name, base_channels=4).eval(), build_model(name, base_channels=4).eval()
    images = torch.randn(1, 3, 32, 32)
    assert not torch.equal(first(images), second(images))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(images), second(images))


def test_unknown_model_lists_known_ones() -> None:
    with pytest.raises(InputError, match="unknown model 'segnet'; known: unet, r2unet, ddunet"):
        build_model("segnet")


def test_ddunet_dilations_match_design() -> None:
    model = build_model("ddunet", base_channels=2)
    dilations = [m.dilation[0] for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert dilations[::2] == dilations[1::2] == [1, 1, 3, 3, 3, 1, 1]


def test_r2unet_shares_convolution_but_not_batch_norms() -> None:
    layer = build_model("r2unet", base_channels=2).encoder[0].layers[0]  # type: ignore[union-attr,index]
    kinds = [type(m).__name__ for m in layer.modules()]
    assert (kinds.count("Conv2d"), kinds.count("BatchNorm2d")) == (1, 2)


def test_r2unet_statistics_per_step_keep_evaluation_close_to_training() -> None:
    """After enough batches of the same images both modes normalize alike, so their logits are nearly equal.

    With one batch norm shared by both recurrent steps, as in other implementations, they differ.
    """
    difference = {}
    for shared in (False, True):
        torch.manual_seed(0)
        network, images = build_model("r2unet", base_channels=8), torch.randn(4, 3, 64, 64).cumsum(2).cumsum(3) / 30
        for layer in network.modules():
            if shared and isinstance(layer, RecurrentLayer):
                layer.norms[1] = layer.norms[0]
        with torch.no_grad():
            for _ in range(60):
                training = network(images)
            evaluation = network.eval()(images)
        difference[shared] = float((training - evaluation).square().mean() / training.var())
    assert difference[False] < 0.03 < 0.1 < difference[True]


def test_r2unet_activation_checkpointing_changes_no_gradient_or_statistic() -> None:
    torch.manual_seed(0)
    plain = build_model("r2unet", 5, 4).train()
    checkpointed = copy.deepcopy(plain)
    blocks = [module for module in checkpointed.modules() if isinstance(module, RecurrentResidualBlock)]
    assert blocks
    for block in blocks:
        block.checkpoint_activations = True
    for network in (plain, checkpointed):
        torch.manual_seed(1)
        for _ in range(2):
            network(torch.randn(2, 3, 32, 32)).square().mean().backward()
    for expected, parameter in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        assert expected.grad is not None and parameter.grad is not None and torch.equal(expected.grad, parameter.grad)
    state = checkpointed.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.state_dict().items())
