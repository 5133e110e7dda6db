"""Naive inference behind LitServe: python -m tests.benchmarks.servers.litserve_server PORT"""

import io
import sys

import litserve
from fastapi import Request, Response
from PIL import Image

from tests.benchmarks.servers.naive_inference import NaiveInference


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.infer = NaiveInference()

    def decode_request(self, request: Request) -> Image.Image:
        return Image.open(io.BytesIO(request["file"].file.read()))

    def predict(self, image: Image.Image) -> bytes:
        return self.infer(image)

    def encode_response(self, mask: bytes) -> Response:
        return Response(mask, media_type="image/png")


if __name__ == "__main__":
    server = litserve.LitServer(Api(api_path="/segment"), accelerator="cpu", workers_per_device=1, timeout=False)
    server.run(port=int(sys.argv[1]), log_level="warning", generate_client_file=False)
