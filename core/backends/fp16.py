"""Half precision: which layers of a network take it, and whether the mask stays what it is."""

from __future__ import annotations

import numpy as np
from torch import nn

from core.backends import Backend, Pictures
from core.images.resize import Size


def halve(network: nn.Module) -> None:
    """Half precision for convolutions but the head, whose logits decide; what lies between takes it from them, with batch
    norm's statistics and factors in fp32."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            if name == "head":
                module.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
            else:
                module.half()


def agreement(one: Backend, other: Backend, pictures: int = 4) -> float:
    """The share of pixels to which two back ends give the same class, 0..1; 0 where a logit is not finite."""
    batch = like_photographs(one.preprocess.size, pictures)
    same = []
    for a, b in zip(one.forward(batch), other.forward(batch), strict=True):
        a, b = one.host(a), other.host(b)
        same.append(np.mean(a.argmax(0) == b.argmax(0)) if np.isfinite(a).all() and np.isfinite(b).all() else 0)
    return float(np.mean(same))


def like_photographs(size: Size, pictures: int) -> Pictures:
    """Pictures (N, h, w, 3) of noise whose amplitude falls with the frequency as that of photographs does (Field 1987,
    figure 8), the same ones at every call: half precision changed as many pixels of such as of real ones."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1]))
    frequency[0, 0] = np.inf  # no mean
    grey = np.fft.rfft2(rng.standard_normal((pictures, 1, *size)))
    colour = np.fft.rfft2(rng.standard_normal((pictures, 3, *size)))
    values = np.fft.irfft2((grey + 0.3 * colour) / frequency, size)
    values *= 60 / np.maximum(values.std((2, 3), keepdims=True), 1e-9)
    return np.ascontiguousarray((values + 110).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1))
