"""`POST /segment`: the same mask as the commands give, in every output format."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from core.checkpoints.checkpoint import read_checkpoint
from core.data.labels import CITYSCAPES
from core.evaluation.evaluator import evaluate_shard
from core.images.decode import decode_image, decode_reduced, load_image
from core.inference.options import InferenceOptions
from core.inference.segmenter import Segmenter
from tests.support.checkpoints import make_checkpoint
from tests.support.live_server import Serve
from tests.support.sample_images import decode_mask, encode_image

SHAPES = {"landscape": (90, 121), "portrait": (121, 91), "large": (251, 330), "one pixel": (1, 1), "strip": (5, 333)}


class SingleSampleDataset:
    """A dataset of one sample."""

    name, split, labels = "single", "val", CITYSCAPES

    def __init__(self, rgb: np.ndarray, label_map: np.ndarray) -> None:
        self.sample = rgb, label_map

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.sample


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("shape", SHAPES)
def test_mask_equals_those_of_predict_and_evaluate_commands(
    serve: Serve, checkpoint: Path, tmp_path: Path, cli, rgb_image: np.ndarray, format: str, shape: str
) -> None:
    data = encode_image(format, cv2.resize(rgb_image, SHAPES[shape][::-1]))
    response = serve().post("/segment", files={"file": data})
    assert response.status_code == 200 and response.headers["content-type"] == "image/png"
    mask = decode_mask(response.content)
    assert mask.shape == SHAPES[shape]

    path = tmp_path / f"street.{format.lower()}"
    path.write_bytes(data)
    assert cli("predict", checkpoint, path, "--out", tmp_path / "out")[0] == 0
    assert np.array_equal(mask, decode_mask((tmp_path / "out" / "street.png").read_bytes()))

    segmenter = Segmenter(checkpoint)
    dataset = SingleSampleDataset(decode_reduced(data, segmenter.preprocess.needed_size)[0], mask)
    counts = evaluate_shard(segmenter.predict_batch, dataset)
    assert counts.confusion.trace() == counts.confusion.sum() == mask.size


def test_overlay_of_reduced_jpeg_shows_whole_image_under_its_mask(
    serve: Serve, checkpoint: Path, rgb_image: np.ndarray
) -> None:
    data = encode_image("JPEG", cv2.resize(rgb_image, (330, 251)))
    response = serve().post("/segment?output=overlay&format=png", content=data)
    result = Segmenter(checkpoint)(data)
    assert result.loaded.pixels.shape == (63, 83, 3) and np.array_equal(result.image, decode_image(data))
    assert np.array_equal(decode_image(response.content), result.overlay())


def test_raw_body_gives_same_response_as_form(serve: Serve, rgb_image: np.ndarray) -> None:
    client, data = serve(), encode_image("PNG", rgb_image)
    expected = client.post("/segment", files={"file": ("x.png", data)}).content
    for headers in ({"Content-Type": "image/png"}, {"Content-Type": "application/octet-stream"}, {}):
        response = client.post("/segment", content=data, headers=headers)
        assert response.status_code == 200 and response.content == expected


def test_format_is_detected_from_content_and_not_from_name(serve: Serve, rgb_image: np.ndarray) -> None:
    response = serve().post("/segment", files={"file": ("../../x.gif", encode_image("PNG", rgb_image), "image/gif")})
    assert response.status_code == 200


def test_labels_output_is_grayscale_png_for_opencv(serve: Serve, checkpoint: Path, rgb_image: np.ndarray) -> None:
    response = serve().post("/segment?output=labels", content=encode_image("PNG", rgb_image))
    labels = cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(labels, Segmenter(checkpoint)(rgb_image))


def test_json_output_has_coco_run_lengths_of_every_class(serve: Serve, checkpoint: Path, rgb_image: np.ndarray) -> None:
    document = serve().post("/segment?output=json", content=encode_image("PNG", rgb_image)).json()
    size, classes = document["size"], document["classes"]
    expected = Segmenter(checkpoint)(rgb_image).labels
    assert size == [90, 120] and [entry["name"] for entry in classes] == list(CITYSCAPES.names)
    for index, entry in enumerate(classes):
        mask = coco.decode(coco.frPyObjects({"size": size, "counts": entry["counts"]}, *size))
        assert np.array_equal(mask, expected == index)
        assert entry["pixels"] == int((expected == index).sum())
        assert entry["fraction"] == pytest.approx(entry["pixels"] / expected.size)


@pytest.mark.parametrize(("query", "format"), [("", "JPEG"), ("&format=jpeg", "JPEG"), ("&format=png", "PNG")])
def test_overlay_output_blends_image_and_class_colors(
    serve: Serve, checkpoint: Path, rgb_image: np.ndarray, query: str, format: str
) -> None:
    response = serve().post(f"/segment?output=overlay{query}", content=encode_image("PNG", rgb_image))
    overlay = Image.open(io.BytesIO(response.content))
    expected = (rgb_image.astype(int) + CITYSCAPES.palette[Segmenter(checkpoint)(rgb_image).labels]) / 2
    assert overlay.format == format and response.headers["content-type"] == f"image/{format.lower()}"
    assert np.abs(np.asarray(overlay) - expected).mean() < (0.6 if format == "PNG" else 12)


def test_headers_report_model_backend_and_timing(serve: Serve, checkpoint: Path, rgb_image: np.ndarray) -> None:
    headers = serve().post("/segment", content=encode_image("PNG", rgb_image)).headers
    assert headers["segment-model"] == "random"
    assert headers["segment-digest"] == read_checkpoint(checkpoint).digest
    assert headers["segment-backend"] == "torch"
    timing = dict(part.split(";dur=") for part in headers["server-timing"].split(", "))
    assert list(timing) == ["decode", "queue", "forward", "label", "encode"]
    assert all(float(milliseconds) >= 0 for milliseconds in timing.values()) and float(timing["forward"]) > 0


def test_model_is_selected_by_name(serve: Serve, tmp_path: Path, rgb_image: np.ndarray) -> None:
    for name in ("unet", "r2unet"):
        make_checkpoint(tmp_path / "runs" / name / "checkpoints" / "best.safetensors", name)
    client = serve(checkpoints=[tmp_path / "runs"], model="r2unet", max_loaded=1)
    data = encode_image("PNG", rgb_image)
    for query, name in (("", "r2unet"), ("?model=unet", "unet"), ("?model=r2unet", "r2unet")):
        response = client.post(f"/segment{query}", content=data)
        assert response.headers["segment-model"] == name
        assert np.array_equal(decode_mask(response.content), Segmenter(tmp_path / "runs" / name)(rgb_image))
    assert [model["loaded"] for model in client.get("/models").json()["models"]] == [True, False]


@pytest.mark.parametrize("output", ["mask", "labels", "overlay", "json"])
def test_response_contains_no_metadata_of_image(serve: Serve, rgb_image: np.ndarray, output: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = "secret street"
    data = encode_image("JPEG", rgb_image, exif=exif, comment=b"secret street")
    response = serve().post(f"/segment?output={output}", content=data)
    assert response.status_code == 200 and b"secret" in data and b"secret" not in response.content


def test_concurrent_requests_get_their_own_masks(serve: Serve, checkpoint: Path, rgb_image: np.ndarray) -> None:
    client, segmenter = serve(), Segmenter(checkpoint)
    images = [np.roll(rgb_image, 7 * n, axis=1)[: 60 + n] for n in range(16)]
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda rgb: client.post("/segment", content=encode_image("PNG", rgb)), images))
    for rgb, response in zip(images, responses, strict=True):
        assert np.array_equal(decode_mask(response.content), segmenter(rgb))


@pytest.mark.parametrize("query", ["", "&flip=true", "&resolution=native"])
def test_confidence_output_is_probability_in_gray(serve: Serve, checkpoint: Path, rgb_image: np.ndarray, query: str) -> None:
    response = serve().post(f"/segment?output=confidence{query}", content=encode_image("PNG", rgb_image))
    options = InferenceOptions(tiled="native" in query, hflip_tta="flip" in query)
    (expected,) = Segmenter(checkpoint).segment_batch([load_image(rgb_image)], options, confidence=True)
    confidence = cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert confidence.dtype == np.uint8 and np.abs(confidence / 255 - expected.confidence).max() < 1 / 255


def test_overlay_has_opacity_and_legend(serve: Serve, checkpoint: Path, rgb_image: np.ndarray) -> None:
    query = "output=overlay&format=png&opacity=0.2&legend=true"
    response = serve().post(f"/segment?{query}", content=encode_image("PNG", rgb_image))
    expected = Segmenter(checkpoint)(rgb_image).overlay(0.2, legend=True)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(response.content))), expected)


def test_opacity_above_1_is_invalid(serve: Serve, rgb_image: np.ndarray) -> None:
    response = serve().post("/segment?output=overlay&opacity=3", content=encode_image("PNG", rgb_image))
    assert response.status_code == 422 and response.json()["code"] == "invalid_parameter"
