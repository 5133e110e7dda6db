"""Serve the exported int8 model with FastAPI, OpenCV and OpenVINO, as a tuned baseline.

python -m tests.benchmarks.servers.tuned_server PORT nearest|bilinear

The OpenVINO graph contains the normalization, each thread has its own inference request, and PNGs are compressed at the
fastest level. `nearest` resizes the class indices, `bilinear` the logits before the argmax.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import openvino
import uvicorn
from fastapi import FastAPI, Response, UploadFile
from openvino.preprocess import ColorFormat, PrePostProcessor

from core.checkpoints.checkpoint import read_checkpoint
from core.checkpoints.exported import XML_FILE

PNG_OPTIONS = [cv2.IMWRITE_PNG_COMPRESSION, 1]


def nearest(logits: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return the class indices (height, width) uint8: the argmax of the logits (K, h, w), resized by nearest neighbor."""
    return cv2.resize(logits.argmax(0).astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)


def bilinear(logits: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return the class indices (height, width) uint8: the argmax of the logits (K, h, w), resized bilinearly."""
    upsampled = cv2.resize(logits.transpose(1, 2, 0), (width, height), interpolation=cv2.INTER_LINEAR)
    return upsampled.argmax(2).astype(np.uint8)


class TunedInference:
    """The int8 export beside the checkpoint that CHECKPOINT names, at the checkpoint's input size."""

    def __init__(self, to_labels: Callable[[np.ndarray, int, int], np.ndarray]) -> None:
        path, self.to_labels = Path(os.environ["CHECKPOINT"]), to_labels
        preprocess = read_checkpoint(path).metadata.preprocess
        core = openvino.Core()
        model = core.read_model(path.with_suffix(".int8") / XML_FILE)
        model.reshape([1, 3, *preprocess.size])
        steps = PrePostProcessor(model)
        steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
        steps.input().tensor().set_color_format(ColorFormat.BGR)
        steps.input().preprocess().convert_element_type(openvino.Type.f32).convert_color(ColorFormat.RGB)
        steps.input().preprocess().mean([255 * mean for mean in preprocess.mean]).scale([255 * std for std in preprocess.std])
        steps.input().model().set_layout(openvino.Layout("NCHW"))
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": os.cpu_count()}
        self.model = core.compile_model(steps.build(), "CPU", options)
        self.size = preprocess.size
        self.thread = threading.local()

    def __call__(self, data: bytes) -> bytes:
        """Return the class indices of an encoded image as a gray PNG of its size."""
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if not hasattr(self.thread, "request"):
            self.thread.request = self.model.create_infer_request()
        x = cv2.resize(bgr, self.size[::-1], interpolation=cv2.INTER_AREA)
        logits = self.thread.request.infer([x[None]], share_inputs=True, share_outputs=True)[0][0]
        labels = self.to_labels(logits, bgr.shape[1], bgr.shape[0])
        return cv2.imencode(".png", labels, PNG_OPTIONS)[1].tobytes()


app = FastAPI()
infer = TunedInference({"nearest": nearest, "bilinear": bilinear}[sys.argv[2]])


@app.post("/segment")
def segment(file: UploadFile) -> Response:
    return Response(infer(file.file.read()), media_type="image/png")


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
