"""A photograph to a coloured mask as most people write it: Pillow, torch, logits enlarged whole, a PNG in RGB."""

from __future__ import annotations

import io
import os

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import functional as T

from core.backends.torch_cpu import load_state
from core.checkpoints.checkpoint import read_checkpoint
from core.models import build_model


class Plain:
    """The network of the checkpoint that CHECKPOINT names, at 256x256."""

    def __init__(self) -> None:
        from pathlib import Path

        checkpoint = read_checkpoint(Path(os.environ["CHECKPOINT"]))
        self.card = checkpoint.card
        self.network = build_model(self.card.architecture.name, len(self.card.labels), self.card.architecture.width)
        load_state(self.network, checkpoint)
        self.network.eval()
        self.palette = self.card.labels.palette

    @torch.no_grad()
    def __call__(self, picture: Image.Image) -> bytes:
        picture = picture.convert("RGB")
        height, width = picture.height, picture.width
        x = T.to_tensor(picture.resize((256, 256), Image.Resampling.BILINEAR))
        x = T.normalize(x, self.card.preprocess.mean, self.card.preprocess.std)
        logits = F.interpolate(self.network(x[None]), (height, width), mode="bilinear", align_corners=False)
        labels = logits.argmax(1)[0].numpy().astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(self.palette[labels]).save(file, "PNG")
        return file.getvalue()
