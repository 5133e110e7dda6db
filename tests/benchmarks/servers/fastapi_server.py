"""Naive inference behind FastAPI: python -m tests.benchmarks.servers.fastapi_server PORT"""

from __future__ import annotations

import io
import sys

import uvicorn
from fastapi import FastAPI, Response, UploadFile
from PIL import Image

from tests.benchmarks.servers.naive_inference import NaiveInference

app = FastAPI()
infer = NaiveInference()


@app.post("/segment")
def segment(file: UploadFile) -> Response:
    return Response(infer(Image.open(io.BytesIO(file.file.read()))), media_type="image/png")


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
