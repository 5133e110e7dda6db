"""Half precision: the layers of a network that use it, and a test that it keeps the masks."""

from __future__ import annotations

import numpy as np
from torch import nn

from core.backends.base import Backend, ImageBatch
from core.images.resize import Size


def convert_to_fp16(network: nn.Module) -> None:
    """Convert all convolutions but the head to half precision, in place.

    The head stays in fp32, because its logits decide the class. Batch norm keeps its statistics and factors in fp32;
    the activations between convolutions have half precision.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            if name == "head":
                module.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
            else:
                module.half()


def pixel_agreement(backend: Backend, reference: Backend, images: int = 4) -> float:
    """Return the fraction of pixels, 0..1, to which two backends give the same class on noise images.

    An image in which either has a logit that is not finite counts as 0.
    """
    batch = pink_noise_images(backend.preprocess.size, images)
    agreements = []
    for a, b in zip(backend.forward(batch), reference.forward(batch), strict=True):
        a, b = backend.to_numpy(a), reference.to_numpy(b)
        agreements.append(np.mean(a.argmax(0) == b.argmax(0)) if np.isfinite(a).all() and np.isfinite(b).all() else 0)
    return float(np.mean(agreements))


def pink_noise_images(size: Size, images: int) -> ImageBatch:
    """Return images (N, h, w, 3) uint8 of noise with the spectrum of natural images, the same ones at every call.

    The amplitude is inversely proportional to the frequency. Half precision changed as many pixels of such images as of
    real ones.

    Source: Field 1987, "Relations between the statistics of natural images and the response properties of cortical
    cells", figure 8.
    """
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1]))
    frequency[0, 0] = np.inf  # The mean is set below.
    gray = np.fft.rfft2(rng.standard_normal((images, 1, *size)))
    color = np.fft.rfft2(rng.standard_normal((images, 3, *size)))
    values = np.fft.irfft2((gray + 0.3 * color) / frequency, size)
    values *= 60 / np.maximum(values.std((2, 3), keepdims=True), 1e-9)
    return np.ascontiguousarray((values + 110).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1))
