"""The ONNX graphs around a network that turn an image into its label map, written in ONNX Script.

ONNX's Resize has no area mode: with its antialiasing, which is a triangle filter, street images differed by up to 27 gray
levels. So an image is resized by two matrices of weights, one for each axis, that the graph computes for the image's size.
They are those of `core.images.resize`, which rounds differently: by one gray level at most.
"""

# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from typing import Any

import onnx
from onnx import compose
from onnxscript import DOUBLE, FLOAT, INT64, UINT8, optimizer, script
from onnxscript import opset18 as op

from core.images.resize import Preprocess

OPSET, IR_VERSION = 18, 8  # of ONNX 1.13


@script(default_opset=op)
def resize_weights(old_length: INT64, new_length: INT64) -> FLOAT[...]:
    """Return the weights (new, old) float32 that resize an axis: by area if it shrinks, else linearly between half pixels."""
    old, new = op.Cast(old_length, to=FLOAT.dtype), op.Cast(new_length, to=FLOAT.dtype)
    scale = old / new
    pixel = op.Range(0.0, old, 1.0)
    start = op.Unsqueeze(op.Range(0.0, new, 1.0), [1]) * scale  # the upper or left edge of each new pixel, (new, 1)
    overlap = op.Relu(op.Min(start + scale, pixel + 1.0) - op.Max(start, pixel))
    center = op.Clip(start + (scale - 1.0) * 0.5, 0.0, old - 1.0)
    linear = op.Relu(1.0 - op.Abs(center - pixel))
    return op.Where(old_length > new_length, overlap / scale, linear)


@script(default_opset=op)
def resize(image: UINT8[...], height: INT64, width: INT64) -> FLOAT[...]:
    """Resize an image (1, H, W, 3) uint8 to (1, 3, height, width) float32, integers from 0 to 255."""
    shape = op.Shape(image)
    rows, columns = resize_weights(shape[1], height), resize_weights(shape[2], width)
    channels = op.Cast(op.Transpose(image, perm=[0, 3, 1, 2]), to=FLOAT.dtype)
    return op.Round(op.MatMul(op.MatMul(rows, channels), op.Transpose(columns, perm=[1, 0])))


def add_preprocessing(network: onnx.ModelProto, preprocess: Preprocess) -> onnx.ModelProto:
    """Return the graph from an image `image` (1, H, W, 3) uint8 RGB of any size to its `labels` (1, H, W) uint8.

    Args:
        network: The graph from `image` (N, 3, h, w) float32, h and w multiples of the stride, to `logits` (N, K, h, w).
        preprocess: How an image becomes the input of the network.
    """
    classes = network.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    before = _preprocess_function(preprocess).to_model_proto(
        input_types=[UINT8[1, "H", "W", 3]], output_types=[FLOAT[1, 3, "h", "w"], INT64[2]], ir_version=IR_VERSION
    )
    after = _postprocess_function(preprocess).to_model_proto(
        input_types=[FLOAT[1, classes, "h", "w"], INT64[2]], output_types=[UINT8[1, "H", "W"]], ir_version=IR_VERSION
    )
    before, after = optimizer.optimize(before), optimizer.optimize(after)  # inlines functions and folds constants
    network, after = compose.add_prefix(network, "network/"), compose.add_prefix(after, "after/", rename_outputs=False)
    joined = compose.merge_models(before, network, [("x", "network/image")], outputs=["network/logits", "size"])
    whole = compose.merge_models(joined, after, [("network/logits", "after/logits"), ("size", "after/size")])
    del whole.opset_import[:]  # `merge_models` repeats it
    whole.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    return whole


def _preprocess_function(preprocess: Preprocess) -> Any:
    """Return the function from an image (1, H, W, 3) uint8 to the network's input (1, 3, h, w) and the size (H, W)."""
    height, width = preprocess.size
    stride, area = float(preprocess.stride), float(height * width)
    longest = max(stride, area // stride // stride * stride)
    scale, shift = (onnx.helper.make_tensor("", FLOAT.dtype, (3, 1, 1), values) for values in preprocess.scale_and_shift)
    padding = [0, 0, 0, 0, 0, 0, -height % preprocess.stride, -width % preprocess.stride]

    @script(default_opset=op)
    def stretch(image: UINT8[...]) -> tuple[FLOAT[...], INT64[...]]:
        resized = op.Pad(resize(image, height, width), op.Constant(value_ints=padding), mode="edge")
        x = resized * op.Constant(value=scale) - op.Constant(value=shift)
        size = op.Shape(image, start=1, end=3)
        return x, size

    @script(default_opset=op)
    def fit(image: UINT8[...]) -> tuple[FLOAT[...], INT64[...]]:
        size = op.Shape(image, start=1, end=3)
        sides = op.Cast(size, to=DOUBLE.dtype)
        strides = op.Round(sides * op.Sqrt(area / op.ReduceProd(sides)) / stride)
        fitted = op.Cast(op.Clip(strides * stride, stride, longest), to=INT64.dtype)
        resized = resize(image, fitted[0], fitted[1])
        x = resized * op.Constant(value=scale) - op.Constant(value=shift)
        return x, size

    return fit if preprocess.mode == "fit" else stretch


def _postprocess_function(preprocess: Preprocess) -> Any:
    """Return the function from logits (1, K, h, w) and a size (H, W) to the labels (1, H, W) uint8."""
    crop = list(preprocess.size) if preprocess.mode == "stretch" else [1 << 31, 1 << 31]  # `fit` needs no padding

    @script(default_opset=op)
    def postprocess(logits: FLOAT[...], size: INT64[...]) -> UINT8[...]:
        cropped = op.Slice(logits, [0, 0], op.Constant(value_ints=crop), [2, 3])
        sizes = op.Concat(op.Shape(logits, end=2), size, axis=0)
        upsampled = op.Resize(cropped, None, None, sizes, mode="linear")
        labels = op.Cast(op.ArgMax(upsampled, axis=1, keepdims=0), to=UINT8.dtype)
        return labels  # noqa: RET504 -- the name of the variable is that of the output

    return postprocess
