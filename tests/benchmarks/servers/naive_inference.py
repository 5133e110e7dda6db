"""Inference as most projects write it: decode with Pillow, run torch, upsample all logits, encode an RGB PNG."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import functional as T

from core.backends.torch_weights import load_network
from core.checkpoints.checkpoint import read_checkpoint


class NaiveInference:
    """The network of the checkpoint that the environment variable CHECKPOINT names, at an input size of 256x256."""

    def __init__(self) -> None:
        checkpoint = read_checkpoint(Path(os.environ["CHECKPOINT"]))
        self.preprocess, self.palette = checkpoint.metadata.preprocess, checkpoint.metadata.labels.palette
        self.network = load_network(checkpoint)

    @torch.no_grad()
    def __call__(self, image: Image.Image) -> bytes:
        """Return the color mask of an image as a PNG of its size."""
        image = image.convert("RGB")
        x = T.to_tensor(image.resize((256, 256), Image.Resampling.BILINEAR))
        x = T.normalize(x, self.preprocess.mean, self.preprocess.std)
        logits = F.interpolate(self.network(x[None]), (image.height, image.width), mode="bilinear", align_corners=False)
        labels = logits.argmax(1)[0].numpy().astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(self.palette[labels]).save(file, "PNG")
        return file.getvalue()
