"""Tests of core.backends.torch_cuda: all but CUDA graphs also runs on the CPU; a GPU is tested if there is one."""

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
from core.backends.fp16 import pink_noise_images, pixel_agreement
from core.backends.torch_cpu import TorchBackend, backend_from_network
from core.backends.torch_cuda import GpuBackend, load_torch_cuda
from core.errors import InputError
from core.images.resize import Preprocess
from core.inference.options import InferenceOptions
from core.inference.segmenter import Segmenter
from core.inference.upsample import upsample_argmax
from core.models import build_model
from tests.support.checkpoints import make_checkpoint

CUDA = ["cuda"] if torch.cuda.is_available() else []
DEVICES = ["cpu", *CUDA]
DEVICES_AND_BACKENDS = [
    (device, backend)
    for device in DEVICES
    for backend in ("torch", "torch-fp16", *["torch-compiled", "torch-fp16-compiled"] * (device in CUDA))
]
PREPROCESS = Preprocess(mode="stretch", size=(64, 96), stride=8)
needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs g++ or clang++; .ci/run installs g++"
)


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return build_model("ddunet", base_channels=4).eval()


def random_batch(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [(120, 200), (48, 64), (20, 31), (200, 20), (1, 1)])
def test_upsample_argmax_matches_torch_and_numpy(device: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_cuda, "MAX_BAND_ELEMENTS", 19 * 200 * 7)  # several bands, the last one shorter
    backend = GpuBackend(make_network(), PREPROCESS, torch.device(device))
    logits = torch.randn(19, 48, 64, generator=torch.Generator().manual_seed(0))
    labels = backend.upsample_argmax(logits.to(device), size)
    upsampled = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
    largest = upsampled.topk(2, 0).values
    distinct = (largest[0] - largest[1] > 1e-5).numpy()  # Rounding decides the argmax of the other pixels.
    assert labels.dtype == np.uint8 and distinct.mean() > 0.99
    assert np.array_equal(labels[distinct], upsampled.argmax(0).numpy()[distinct])
    assert np.array_equal(labels[distinct], upsample_argmax(logits.numpy(), size)[distinct])


@pytest.mark.parametrize(("device", "name"), DEVICES_AND_BACKENDS)
def test_logits_are_bitwise_equal_in_any_batch(device: str, name: str) -> None:
    backend = GpuBackend(make_network(), PREPROCESS, torch.device(device), name=name)
    batch = random_batch(torch_cuda.NUM_STREAMS + 2)
    single = [backend.to_numpy(backend.forward(image[None])[0]) for image in batch]
    backend.forward(random_batch(3, 40, 80))  # Another shape in between must not matter.
    batched = [backend.to_numpy(logits) for logits in backend.forward(batch)]
    assert all(map(np.array_equal, single, batched))
    assert not np.array_equal(single[0], single[1])


@pytest.mark.parametrize("device", DEVICES)
def test_fp32_logits_match_cpu_backend(device: str) -> None:
    cpu, gpu = TorchBackend(make_network(), PREPROCESS), GpuBackend(make_network(), PREPROCESS, torch.device(device))
    for expected, logits in zip(cpu.forward(random_batch(2)), gpu.forward(random_batch(2)), strict=True):
        assert np.allclose(expected, gpu.to_numpy(logits), rtol=0, atol=1e-3 * (device in CUDA))  # On a CPU bitwise equal.


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["unet", "r2unet", "ddunet"])
def test_fp16_keeps_masks_of_bundled_models(device: str, name: str) -> None:
    fp32, fp16 = (Segmenter(name, device, backend).backend for backend in ("torch", "torch-fp16"))
    assert pixel_agreement(fp16, fp32, 1) >= torch_cuda.MIN_PIXEL_AGREEMENT


def test_fp16_keeps_head_and_batch_norm_in_fp32() -> None:
    network = GpuBackend(make_network(), PREPROCESS, torch.device("cpu"), name="torch-fp16").network
    dtypes = {type(m).__name__: {p.dtype for p in m.parameters()} for n, m in network.named_modules() if n != "head"}
    assert dtypes["Conv2d"] == dtypes["ConvTranspose2d"] == {torch.float16}
    assert dtypes["BatchNorm2d"] == {p.dtype for p in network.head.parameters()} == {torch.float32}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("scale", "expected"), [(1, "torch-fp16"), (1e6, "torch")], ids=["normal", "overflow"])
def test_auto_chooses_fp16_if_it_keeps_the_mask(device: str, scale: float, expected: str) -> None:
    network = Segmenter("ddunet", "cpu", "torch").backend.network
    with torch.no_grad():  # Activations beyond the range of fp16, which the next batch norm scales back.
        network.encoder[0][0][1].weight *= scale
        network.encoder[0][0][1].bias *= scale
        network.encoder[0][1][1].running_mean *= scale
        network.encoder[0][1][1].running_var *= scale**2
    backend = load_torch_cuda(network, Preprocess(stride=8), torch.device(device), "its digest", "auto")
    assert (backend.name, backend.digest) == (expected, "its digest")
    fp32 = GpuBackend(copy.deepcopy(network).float(), Preprocess(stride=8), torch.device(device))
    assert pixel_agreement(backend, fp32, 1) >= torch_cuda.MIN_PIXEL_AGREEMENT


@needs_compiler
@pytest.mark.parametrize("device", DEVICES)
def test_compiled_network_runs_many_shapes_in_another_thread(device: str) -> None:
    backend = GpuBackend(nn.Conv2d(3, 19, 1), PREPROCESS, torch.device(device), name="torch-compiled")
    with ThreadPoolExecutor(1) as pool:
        for width in range(8, 20):
            assert pool.submit(backend.forward, random_batch(1, 8, width)).result()[0].shape == (19, 8, width)


def test_missing_compiler_is_reported_with_alternatives(checkpoint: Path) -> None:
    torch._dynamo.reset()
    no_compiler = torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True})
    message = r"torch-compiled can't run here \(.+\); use torch or torch-fp16, or install what is missing"
    with no_compiler, pytest.raises(InputError, match=message):
        Segmenter(checkpoint, "cpu", "torch-compiled")


@pytest.mark.parametrize("device", DEVICES)
def test_deleted_backend_frees_network_at_once(device: str) -> None:
    """No reference cycle may keep a network in GPU memory until the garbage collector runs."""
    gc.disable()
    try:
        backend = GpuBackend(make_network(), PREPROCESS, torch.device(device))
        backend.forward(random_batch(1))
        reference = weakref.ref(backend.network)
        del backend
        assert reference() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("device", DEVICES)
def test_backend_follows_weights_of_network_in_training(device: str) -> None:
    network, batch = make_network().to(device), random_batch(1)
    backend = backend_from_network(network, PREPROCESS, torch.device(device))
    before = backend.to_numpy(backend.forward(batch)[0])
    with torch.no_grad():
        network.head.bias += 1
    assert np.allclose(backend.to_numpy(backend.forward(batch)[0]), before + 1, atol=1e-4)
    assert {p.dtype for p in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("hflip_tta", [False, True], ids=["plain", "hflip"])
@pytest.mark.parametrize("tiled", [False, True], ids=["resized", "tiled"])
def test_fp16_supports_all_inference_options(device: str, tiled: bool, hflip_tta: bool, tmp_path: Path) -> None:
    options = InferenceOptions(tiled=tiled, hflip_tta=hflip_tta)
    path = make_checkpoint(tmp_path / "c.safetensors", "unet")
    fp16, fp32 = Segmenter(path, device, "torch-fp16"), Segmenter(path, "cpu", "torch")
    images = list(pink_noise_images((90, 120), 2))
    for a, b in zip(fp16.predict_batch(images, options=options), fp32.predict_batch(images, options=options), strict=True):
        assert a.shape == b.shape and np.mean(a == b) > 0.97
