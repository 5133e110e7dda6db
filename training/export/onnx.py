"""ONNX export: the network of a checkpoint in a file for other programs, compared with torch before it is written.

The graph is the network alone, as the back end `onnx` runs it, or it goes from an image to its label map.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from core import __version__
from core.backends.base import TORCH
from core.backends.fp16 import pink_noise_images
from core.backends.onnx import OnnxBackend, open_session
from core.checkpoints.checkpoint import Checkpoint
from core.checkpoints.onnx_file import write_onnx_file
from core.checkpoints.safetensors_io import METADATA_KEY
from core.data.datasets import Dataset
from core.errors import InputError, TrainingError
from core.images.decode import RGB
from core.images.encode import LabelMap
from core.images.resize import Size
from core.inference.segmenter import Segmenter
from training.export.network import NetworkWithoutPadding
from training.export.onnx_preprocess import IR_VERSION, OPSET, add_preprocessing

MIN_PIXEL_AGREEMENT = 0.9999  # fraction of the pixels that must have the same label as with torch
MIN_PIXEL_AGREEMENT_WITH_PREPROCESS = 0.995  # 0.998 to 0.9999 on street images, whose gray levels are rounded differently
MAX_CHECK_IMAGES = 50
MAX_BYTES = 2 << 30  # of an ONNX file, which is a protobuf message
METADATA_FIELDS = {"schema_version", "architecture", "labels", "preprocess", "calibration", "license", "limitations"}
LabelFn = Callable[[RGB], LabelMap]


def export_onnx(checkpoint: Checkpoint, path: Path, with_preprocess: bool, dataset: Dataset | None) -> tuple[str, str]:
    """Write the network of a checkpoint as an ONNX file; return its digest and a description of the comparison with torch.

    Args:
        checkpoint: The checkpoint to convert.
        path: The file to write.
        with_preprocess: Whether the graph contains the preprocessing and the upsampling, too.
        dataset: Images on which ONNX Runtime and torch are compared; without it, images of noise.

    Raises:
        InputError: The weights exceed the limit of the file format.
        TrainingError: Too many pixels have another label than with torch; nothing is written.
    """
    if 4 * sum(tensor.size for tensor in checkpoint.tensors.values()) >= MAX_BYTES:
        raise InputError(f"{checkpoint.path}: the weights exceed 2 GB, the limit of an ONNX file; train with a smaller --width")
    model = convert(checkpoint)
    if with_preprocess:
        model = add_preprocessing(model, checkpoint.metadata.preprocess)
    _describe(model, checkpoint)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    label = _graph_labels(data) if with_preprocess else _backend_labels(data, checkpoint)
    images = list(_check_images(checkpoint, dataset))
    agreement = _pixel_agreement(label, checkpoint, images)
    checked_on = f"{len(images)} images of {f'{dataset.name} {dataset.split}' if dataset else 'noise'}"
    minimum = MIN_PIXEL_AGREEMENT_WITH_PREPROCESS if with_preprocess else MIN_PIXEL_AGREEMENT
    if agreement < minimum:
        raise TrainingError(
            f"{path} is not written: {100 * agreement:.3f} % of the pixels of {checked_on} have the same label as with torch,"
            f" expected {100 * minimum:g} % or more; compare on images like the training images (--data), or export --fp32"
        )
    digest = write_onnx_file(path, data, checkpoint.digest)
    return digest, f"pixel agreement with torch {100 * agreement:.3f} % on {checked_on}"


def convert(checkpoint: Checkpoint) -> onnx.ModelProto:
    """Convert a checkpoint's network: `image` (N, 3, H, W) float32, H and W multiples of the stride, to `logits`."""
    stride = checkpoint.metadata.preprocess.stride
    batch, rows, columns = (torch.export.Dim(name) for name in ("batch", "rows", "columns"))
    with warnings.catch_warnings():  # The exporter warns about its own internals.
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            NetworkWithoutPadding(checkpoint),
            (torch.zeros(2, 3, 2 * stride, 3 * stride),),
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: batch, 2: stride * rows, 3: stride * columns},),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    model: onnx.ModelProto = program.model_proto
    model.ir_version = IR_VERSION
    # The exporter adds stack traces, with the paths of this computer, and the shape of every intermediate result.
    for item in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        item.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    return model


def _describe(model: onnx.ModelProto, checkpoint: Checkpoint) -> None:
    """Add the metadata that users of the file need, as one JSON document."""
    document = checkpoint.metadata.model_dump(mode="json", include=METADATA_FIELDS)
    entry = {METADATA_KEY: json.dumps({**document, "code_version": __version__}, ensure_ascii=False)}
    onnx.helper.set_model_props(model, entry)
    model.producer_name, model.producer_version = "street-segmentation", __version__
    model.graph.name = checkpoint.metadata.architecture.name


def _backend_labels(data: bytes, checkpoint: Checkpoint) -> LabelFn:
    """Return the function that segments an image with a network alone."""
    backend = OnnxBackend(data, checkpoint.metadata.preprocess)
    segmenter = Segmenter.from_backend(backend, checkpoint.metadata.labels)
    return lambda rgb: segmenter.predict_batch([rgb])[0]


def _graph_labels(data: bytes) -> LabelFn:
    """Return the function that segments an image with a graph that contains the preprocessing."""
    session = open_session(data)

    def label(rgb: RGB) -> LabelMap:
        labels: LabelMap = session.run(["labels"], {"image": rgb[None]})[0][0]
        return labels

    return label


def _check_images(checkpoint: Checkpoint, dataset: Dataset | None) -> Iterator[RGB]:
    """Yield images (H, W, 3) uint8 RGB of the data, at most MAX_CHECK_IMAGES, or of noise: larger and smaller ones."""
    if dataset is not None:
        count = min(MAX_CHECK_IMAGES, len(dataset))
        yield from (dataset[index][0] for index in np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist())
        return
    height, width = checkpoint.metadata.preprocess.size
    for scale in (1.5, 0.75):
        size: Size = (round(scale * height), round(scale * width))
        yield from pink_noise_images(size, 2)


def _pixel_agreement(label: LabelFn, checkpoint: Checkpoint, images: list[RGB]) -> float:
    """Return the fraction of the pixels, 0..1, to which `label` and torch on a CPU give the same class."""
    reference = Segmenter(checkpoint, "cpu", TORCH)
    equal = sum(int((label(rgb) == reference.predict_batch([rgb])[0]).sum()) for rgb in images)
    pixels = sum(rgb.shape[0] * rgb.shape[1] for rgb in images)
    return float(equal / pixels)
