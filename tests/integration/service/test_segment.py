"""`POST /segment`: the same mask as on the command line, in every form."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from core.checkpoints.checkpoint import read_checkpoint
from core.data.labels import CITYSCAPES
from core.evaluation.report import evaluate_shard
from core.images.decode import decode_photo
from core.inference.segmenter import Segmenter
from tests.conftest import make_checkpoint

SHAPES = {"landscape": (90, 121), "portrait": (121, 91), "tiny": (1, 1), "strip": (5, 333)}


def encode(rgb: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_mask_is_what_predict_and_evaluate_compute(
    serve, checkpoint: Path, tmp_path: Path, cli, photo: np.ndarray, kind: str, shape: str
) -> None:
    rgb = cv2.resize(photo, SHAPES[shape][::-1])
    path = tmp_path / f"street.{kind.lower()}"
    path.write_bytes(encode(rgb, kind))
    reply = serve().post("/segment", files={"file": path.read_bytes()})
    assert reply.status_code == 200 and reply.headers["content-type"] == "image/png"
    served = np.asarray(Image.open(io.BytesIO(reply.content)))
    assert served.shape == SHAPES[shape]

    assert cli("predict", checkpoint, path, "--out", tmp_path / "out")[0] == 0
    assert np.array_equal(served, np.asarray(Image.open(tmp_path / "out" / "street.png")))

    class One:
        name, split, labels = "one", "val", CITYSCAPES

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            return decode_photo(path.read_bytes()), served

    tally = evaluate_shard(Segmenter(checkpoint).many, One())
    assert tally.confusion.trace() == tally.confusion.sum() == served.size


def test_the_body_itself_may_be_the_picture(serve, photo: np.ndarray) -> None:
    client, data = serve(), encode(photo, "PNG")
    multipart = client.post("/segment", files={"file": ("x.png", data)}).content
    for headers in ({"Content-Type": "image/png"}, {"Content-Type": "application/octet-stream"}, {}):
        assert client.post("/segment", content=data, headers=headers).content == multipart


def test_the_content_decides_and_not_the_name(serve, photo: np.ndarray) -> None:
    reply = serve().post("/segment", files={"file": ("../../x.gif", encode(photo, "PNG"), "image/gif")})
    assert reply.status_code == 200


def test_labels_are_grey_values_for_opencv(serve, checkpoint: Path, photo: np.ndarray) -> None:
    reply = serve().post("/segment?output=labels", content=encode(photo, "PNG"))
    values = cv2.imdecode(np.frombuffer(reply.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(values, Segmenter(checkpoint)(photo))


def test_json_tells_every_class_with_coco_run_lengths(serve, checkpoint: Path, photo: np.ndarray) -> None:
    told = serve().post("/segment?output=json", content=encode(photo, "PNG")).json()
    expected = Segmenter(checkpoint)(photo).labels
    assert told["size"] == [90, 120] and [c["name"] for c in told["classes"]] == list(CITYSCAPES.names)
    for k, c in enumerate(told["classes"]):
        mask = coco.decode(coco.frPyObjects({"size": told["size"], "counts": c["counts"]}, *told["size"]))
        assert np.array_equal(mask, expected == k)
        assert c["pixels"] == int((expected == k).sum()) and c["fraction"] == pytest.approx(c["pixels"] / expected.size)


@pytest.mark.parametrize(("query", "kind"), [("", "JPEG"), ("&format=jpeg", "JPEG"), ("&format=png", "PNG")])
def test_overlay_is_the_photograph_under_the_colours(serve, checkpoint: Path, photo: np.ndarray, query: str, kind: str) -> None:
    reply = serve().post(f"/segment?output=overlay{query}", content=encode(photo, "PNG"))
    picture = Image.open(io.BytesIO(reply.content))
    expected = (photo.astype(int) + CITYSCAPES.palette[Segmenter(checkpoint)(photo).labels]) / 2
    assert picture.format == kind and reply.headers["content-type"] == f"image/{kind.lower()}"
    assert np.abs(np.asarray(picture) - expected).mean() < (0.6 if kind == "PNG" else 12)


def test_every_reply_tells_what_answered_and_how_long_it_took(serve, checkpoint: Path, photo: np.ndarray) -> None:
    headers = serve().post("/segment", content=encode(photo, "PNG")).headers
    assert headers["segment-model"] == "random"
    assert headers["segment-digest"] == read_checkpoint(checkpoint).digest
    assert headers["segment-backend"] == "torch"
    stages = dict(part.split(";dur=") for part in headers["server-timing"].split(", "))
    assert list(stages) == ["decode", "queue", "forward", "label", "encode"]
    assert all(float(value) >= 0 for value in stages.values())


def test_another_model_is_chosen_by_name(serve, tmp_path: Path, photo: np.ndarray) -> None:
    for name in ("unet", "r2unet"):
        make_checkpoint(tmp_path / "runs" / name / "checkpoints" / "best.safetensors", name)
    client = serve(checkpoints=[tmp_path / "runs"], model="r2unet", max_loaded=1)
    data = encode(photo, "PNG")
    for query, name in (("", "r2unet"), ("?model=unet", "unet"), ("?model=r2unet", "r2unet")):
        reply = client.post(f"/segment{query}", content=data)
        assert reply.headers["segment-model"] == name
        folder = tmp_path / "runs" / name
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(reply.content))), Segmenter(folder)(photo))
    assert [m["loaded"] for m in client.get("/models").json()["models"]] == [True, False]


def test_no_metadata_of_the_photograph_goes_out(serve, photo: np.ndarray) -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "secret street"
    Image.fromarray(photo).save(file, "JPEG", exif=exif, comment=b"secret street")
    for output in ("mask", "labels", "overlay", "json"):
        assert b"secret" not in serve().post(f"/segment?output={output}", content=file.getvalue()).content


def test_requests_at_once_get_their_own_masks(serve, checkpoint: Path, photo: np.ndarray) -> None:
    from concurrent.futures import ThreadPoolExecutor

    client, segmenter = serve(), Segmenter(checkpoint)
    photos = [np.roll(photo, 7 * n, axis=1)[: 60 + n] for n in range(16)]
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda rgb: client.post("/segment", content=encode(rgb, "PNG")), photos))
    for rgb, reply in zip(photos, replies, strict=True):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(reply.content))), segmenter(rgb))
