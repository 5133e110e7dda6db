"""The back end for GPUs, on a GPU where there is one, and all but CUDA graphs on the CPU: the masks of the exact one."""

from __future__ import annotations

import copy
import gc
import shutil
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from core.backends import torch_cuda
from core.backends.fp16 import agreement, like_photographs
from core.backends.torch_cpu import TorchBackend, in_memory
from core.backends.torch_cuda import GpuBackend, open_gpu
from core.errors import InputError
from core.images.resize import Preprocess
from core.inference.segmenter import How, Segmenter
from core.inference.upsample import label_map
from core.models import build_model
from tests.conftest import make_checkpoint

CUDA = ["cuda"] if torch.cuda.is_available() else []
DEVICES = ["cpu", *CUDA]
WAYS = [
    (device, way)
    for device in DEVICES
    for way in ("torch", "torch-fp16", *["torch-graphs", "torch-fp16-graphs"] * (device in CUDA))
]
PREPROCESS = Preprocess(mode="stretch", size=(64, 96), stride=8)


def network() -> nn.Module:
    torch.manual_seed(0)
    return build_model("ddunet", width=4).eval()


def pictures(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [(120, 200), (48, 64), (20, 31), (200, 20), (1, 1)])
def test_labels_are_those_of_enlarging_on_the_host(device: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_cuda, "BAND", 19 * 200 * 7)  # several bands, the last one shorter
    backend = GpuBackend(network(), PREPROCESS, torch.device(device))
    logits = torch.randn(19, 48, 64, generator=torch.Generator().manual_seed(0))
    labels = backend.label(logits.to(device), size)
    whole = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
    two = whole.topk(2, 0).values
    sure = (two[0] - two[1] > 1e-5).numpy()
    assert labels.dtype == np.uint8 and sure.mean() > 0.99
    assert np.array_equal(labels[sure], whole.argmax(0).numpy()[sure])
    assert np.array_equal(labels[sure], label_map(logits.numpy(), size)[sure])


@pytest.mark.parametrize(("device", "way"), WAYS)
def test_logits_have_the_same_bits_in_any_batch_and_after_other_shapes(
    device: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.backends.streams.SHAPES", 1)  # graphs of one shape give way to those of another
    backend, batch = GpuBackend(network(), PREPROCESS, torch.device(device), name=way), pictures(torch_cuda.LANES + 2)
    alone = [backend.host(backend.forward(picture[None])[0]) for picture in batch]
    backend.forward(pictures(3, 40, 80))
    together = [backend.host(logits) for logits in backend.forward(batch)]
    assert all(map(np.array_equal, alone, together))
    assert not np.array_equal(alone[0], alone[1])


@pytest.mark.parametrize("device", DEVICES)
def test_fp32_gives_the_logits_of_the_back_end_for_cpus(device: str) -> None:
    here, there = TorchBackend(network(), PREPROCESS), GpuBackend(network(), PREPROCESS, torch.device(device))
    for a, b in zip(here.forward(pictures(2)), there.forward(pictures(2)), strict=True):
        assert np.allclose(a, there.host(b), rtol=0, atol=1e-3 * (device in CUDA))  # on a CPU they are the same bits


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["unet", "r2unet", "ddunet"])
def test_half_precision_keeps_the_masks_of_what_ships(device: str, name: str) -> None:
    full, half = (Segmenter(name, device, way).backend for way in ("torch", "torch-fp16"))
    assert agreement(half, full, 1) >= torch_cuda.AGREEMENT


def test_the_head_and_batch_norm_stay_in_fp32() -> None:
    halved = GpuBackend(network(), PREPROCESS, torch.device("cpu"), name="torch-fp16").network
    found = {type(m).__name__: {p.dtype for p in m.parameters()} for n, m in halved.named_modules() if n != "head"}
    assert found["Conv2d"] == found["ConvTranspose2d"] == {torch.float16}
    assert found["BatchNorm2d"] == {p.dtype for p in halved.head.parameters()} == {torch.float32}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("scale", "chosen"), [(1, "torch-fp16"), (1e6, "torch")])
def test_half_precision_is_chosen_where_it_keeps_the_mask(device: str, scale: float, chosen: str) -> None:
    model = Segmenter("ddunet", "cpu", "torch").backend.network
    with torch.no_grad():  # larger than half precision can tell, and no matter to what follows
        model.encoder[0][0][1].weight *= scale
        model.encoder[0][0][1].bias *= scale
        model.encoder[0][1][1].running_mean *= scale
        model.encoder[0][1][1].running_var *= scale**2
    backend = open_gpu(model, Preprocess(stride=8), torch.device(device), "its digest", "auto")
    assert (backend.name, backend.digest) == (chosen, "its digest")
    exact = GpuBackend(copy.deepcopy(model).float(), Preprocess(stride=8), torch.device(device))
    assert agreement(backend, exact, 1) >= torch_cuda.AGREEMENT


@pytest.mark.parametrize("device", DEVICES)
def test_compiled_it_gives_the_same_masks_or_says_what_is_lacking(device: str, checkpoint: Path) -> None:
    if not (shutil.which("g++") or shutil.which("clang++")):
        with pytest.raises(InputError, match=r"torch-compiled can't run here \(.+\); expected torch"):
            Segmenter(checkpoint, device, "torch-compiled")
        return
    compiled, exact = (Segmenter(checkpoint, device, way) for way in ("torch-compiled", "torch"))
    assert compiled.backend.name == "torch-compiled"
    for size in ((64, 64), (50, 90)):
        (rgb,) = pictures(1, *size)
        assert np.mean(compiled(rgb).labels == exact(rgb).labels) >= 0.999


def test_without_a_compiler_the_name_says_what_would_work(checkpoint: Path) -> None:
    torch._dynamo.reset()
    lacking = torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True})
    expected = r"torch-compiled can't run here \(.+\); expected torch, torch-fp16 or what it lacks"
    with lacking, pytest.raises(InputError, match=expected):
        Segmenter(checkpoint, "cpu", "torch-compiled")


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs g++; .ci/run installs it")
@pytest.mark.parametrize("device", DEVICES)
def test_compiled_it_takes_many_shapes_in_whichever_thread(device: str) -> None:
    backend = GpuBackend(nn.Conv2d(3, 19, 1), PREPROCESS, torch.device(device), name="torch-compiled")
    with ThreadPoolExecutor(1) as pool:
        for width in range(8, 20):
            assert pool.submit(backend.forward, pictures(1, 8, width)).result()[0].shape == (19, 8, width)


@pytest.mark.parametrize("device", DEVICES)
def test_a_network_that_is_let_go_is_gone_at_once(device: str) -> None:
    gc.disable()
    try:
        backend = GpuBackend(network(), PREPROCESS, torch.device(device))
        backend.forward(pictures(1))
        seen = weakref.ref(backend.network)
        del backend
        assert seen() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("device", DEVICES)
def test_in_training_the_weights_of_the_moment_are_run(device: str) -> None:
    trained, photos = network().to(device), pictures(1)
    backend = in_memory(trained, PREPROCESS, torch.device(device))
    before = backend.host(backend.forward(photos)[0])
    with torch.no_grad():
        trained.head.bias += 1
    assert np.allclose(backend.host(backend.forward(photos)[0]), before + 1, atol=1e-4)
    assert {p.dtype for p in trained.parameters()} == {torch.float32}


def test_logits_of_another_device_s_worker_are_taken_by_any_back_end() -> None:
    logits = torch.randn(19, 48, 64)
    assert np.array_equal(TorchBackend(network(), PREPROCESS).label(logits, (90, 120)), label_map(logits.numpy(), (90, 120)))


def test_graphs_without_a_gpu_are_refused(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="torch-fp16-graphs: CUDA graphs need a GPU, and not cpu; expected"):
        Segmenter(checkpoint, "cpu", "torch-fp16-graphs")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("how", [How(), How(flip=True), How(native=True), How(native=True, flip=True)])
def test_every_way_through_the_network_is_open(device: str, how: How, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "c.safetensors", "unet")
    halved, exact = Segmenter(path, device, "torch-fp16"), Segmenter(path, "cpu", "torch")
    photos = list(like_photographs((90, 120), 2))
    for a, b in zip(halved.many(photos, how=how), exact.many(photos, how=how), strict=True):
        assert a.shape == b.shape and np.mean(a == b) > 0.97
