"""One contract for all architectures, and the design's parameter counts to the unit."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from core.errors import InputError
from core.models import MODELS, build_model
from core.models.r2unet import RecurrentLayer

COUNTS = {"unet": 31_386_003, "r2unet": 49_546_771, "ddunet": 10_802_451}
ALL = pytest.mark.parametrize("name", COUNTS)


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_the_three_are_there() -> None:
    assert set(COUNTS) == set(MODELS)


@ALL
def test_parameter_count_is_the_design_s(name: str) -> None:
    assert parameters(build_model(name)) == COUNTS[name]


@ALL
def test_width_16_has_about_a_sixteenth_of_the_weights(name: str) -> None:
    assert parameters(build_model(name, width=16)) == pytest.approx(COUNTS[name] / 16, rel=0.02)


@ALL
@pytest.mark.parametrize("size", [(1, 1), (1, 37), (33, 47), (64, 64), (65, 16)])
def test_any_input_size_gives_logits_of_that_size(name: str, size: tuple[int, int]) -> None:
    model = build_model(name, num_classes=5, width=2).eval()
    assert model(torch.zeros(2, 3, *size)).shape == (2, 5, *size)


@ALL
def test_every_weight_tensor_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, width=8).train()
    images, labels = torch.randn(4, 3, 64, 64), torch.randint(0, 19, (4, 64, 64))
    F.cross_entropy(model(images), labels).backward()
    sizes = {key: float(p.grad.abs().max()) for key, p in model.named_parameters() if p.grad is not None}
    largest = max(sizes.values())
    assert len(sizes) == len(list(model.parameters()))
    assert {key: size for key, size in sizes.items() if size <= 1e-6 * largest} == {}


@ALL
def test_no_kernel_tap_is_dead(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, width=8).train()
    images, labels = torch.randn(4, 3, 64, 64), torch.randint(0, 19, (4, 64, 64))
    F.cross_entropy(model(images), labels).backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or bool((p.grad == 0).any())] == []


@ALL
def test_convolutions_before_batch_norm_have_no_bias_and_the_head_has_one(name: str) -> None:
    model = build_model(name, width=2)
    biased = [k for k, m in model.named_modules() if isinstance(m, torch.nn.Conv2d) and m.bias is not None]
    assert biased == ["head"]


@ALL
def test_weights_saved_and_loaded_give_the_same_logits(name: str) -> None:
    torch.manual_seed(0)
    first, second = build_model(name, width=4).eval(), build_model(name, width=4).eval()
    second.load_state_dict(first.state_dict())
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(first(images), second(images))


def test_r2unet_shares_a_convolution_and_not_its_batch_norms() -> None:
    layer = build_model("r2unet", width=2).encoder[0].layers[0]  # type: ignore[union-attr,index]
    kinds = [type(m).__name__ for m in layer.modules()]
    assert (kinds.count("Conv2d"), kinds.count("BatchNorm2d")) == (1, 2)


def test_r2unet_does_not_collapse_at_evaluation_as_it_would_with_shared_statistics() -> None:
    """After enough batches of the same images both modes normalise alike, so the logits should hardly change. They do not;
    with one batch norm for both applications, as other implementations have it, they do."""
    apart = {}
    for shared in (False, True):
        torch.manual_seed(0)
        network, images = build_model("r2unet", width=8), torch.randn(4, 3, 64, 64).cumsum(2).cumsum(3) / 30
        for layer in network.modules():
            if shared and isinstance(layer, RecurrentLayer):
                layer.norms[1] = layer.norms[0]
        with torch.no_grad():
            for _ in range(60):
                training = network(images)
            evaluation = network.eval()(images)
        apart[shared] = float((training - evaluation).square().mean() / training.var())
    assert apart[False] < 0.03 < 0.1 < apart[True]


def test_ddunet_is_dilated_where_the_design_says() -> None:
    model = build_model("ddunet", width=2)
    dilations = [m.dilation[0] for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert dilations[::2] == dilations[1::2] == [1, 1, 3, 3, 3, 1, 1]


def test_unknown_model_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="unknown model 'segnet'; known: unet, r2unet, ddunet"):
        build_model("segnet")
