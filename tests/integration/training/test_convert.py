"""Tests of `python -m training convert`: label maps of every format, and what is reported about bad exports."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from core.data.datasets import list_splits, open_dataset
from core.data.labels import CITYSCAPES
from tests.support.cli import Cli
from training.conversion import FORMATS
from training.conversion.drawing import decompress_run_lengths

EXPORTS = Path(__file__).parents[2] / "data" / "exports"
VOID = 255


class Canvas:
    """A label map drawn with Pillow, and the pixels at the edges of polygons, where rasterizers differ."""

    def __init__(self, width: int, height: int, fill: int) -> None:
        self.labels, self.edges = Image.new("L", (width, height), fill), Image.new("L", (width, height), 0)

    def polygon(self, value: int, *polygons: list[Any]) -> None:
        for points in polygons:
            flat = np.ravel(points).tolist()
            ImageDraw.Draw(self.labels).polygon(flat, fill=value)
            ImageDraw.Draw(self.edges).line([*flat, *flat[:2]], fill=1, width=3)

    def circle(self, value: int, x: float, y: float, radius: float) -> None:
        ImageDraw.Draw(self.labels).ellipse((x - radius, y - radius, x + radius, y + radius), fill=value)
        outer = radius + 1
        ImageDraw.Draw(self.edges).ellipse((x - outer, y - outer, x + outer, y + outer), outline=1, width=3)

    def mask(self, value: int, mask: np.ndarray, x: int = 0, y: int = 0) -> None:
        self.labels.paste(value, (x, y), Image.fromarray((mask > 0).astype(np.uint8) * 255))

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(self.labels), np.asarray(self.edges) > 0


def exact(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return labels, np.zeros(labels.shape, bool)


def pixels(path: str) -> np.ndarray:
    with Image.open(EXPORTS / path) as image:
        return np.asarray(image)


# The functions below return the expected label map of each (split, name), and the pixels at the edges of polygons.
Expected = dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]


def coco_labels() -> Expected:
    documents = [
        json.loads((EXPORTS / f"coco/annotations/instances_{split}2017.json").read_text()) for split in ("train", "val")
    ]
    objects = {annotation["id"]: annotation for document in documents for annotation in document["annotations"]}
    order = {1: (12, 13, 11, 14), 2: (21, 23), 3: (31,)}  # annotations of each image, from the largest to the smallest
    classes = {7: 0, 3: 1, 1: 2, 12: 3, 99: VOID}
    expected: Expected = {}
    for number, ids in order.items():
        canvas = Canvas(40, 30, VOID)
        for annotation in map(objects.get, ids):
            value, segmentation = classes[annotation["category_id"]], annotation["segmentation"]
            if isinstance(segmentation, list):
                canvas.polygon(value, *segmentation)
            else:
                runs = segmentation if isinstance(segmentation["counts"], str) else coco_mask.frPyObjects(segmentation, 30, 40)
                canvas.mask(value, coco_mask.decode(runs))
        expected["train" if number < 3 else "val", f"{number:012}"] = canvas.result()
    return expected


def panoptic_labels() -> Expected:
    ids = pixels("coco-panoptic/annotations/panoptic_val2017/000000000009.png").astype(int)
    labels = np.full(ids.shape[:2], VOID)
    for value, number in enumerate((258, 70000, 3226956)):  # of car, road and sky
        labels[ids[..., 0] + 256 * ids[..., 1] + 65536 * ids[..., 2] == number] = value
    return {("val", "000000000009"): exact(labels)}


def labelme_labels() -> Expected:
    street, embedded, corner = Canvas(40, 30, VOID), Canvas(24, 16, VOID), Canvas(24, 16, VOID)  # car, person, road, sign
    shapes = json.loads((EXPORTS / "labelme/street.json").read_text())["shapes"]
    street.polygon(2, shapes[0]["points"])
    street.polygon(0, [[7.3, 16.1], [18.6, 16.1], [18.6, 24.4], [7.3, 24.4]])
    street.circle(3, 30, 8, 4)
    with Image.open(io.BytesIO(base64.b64decode(shapes[3]["mask"]))) as patch:
        street.mask(1, np.asarray(patch) > 0, 24, 17)
    street.polygon(VOID, shapes[4]["points"])
    embedded.polygon(2, [[2, 3], [20, 3], [20, 13], [2, 13]])
    corner.polygon(2, [[1, 1], [22, 2], [12, 15]])
    return {("train", "street"): street.result(), ("train", "embedded"): embedded.result(), ("val", "corner"): corner.result()}


def cvat_labels() -> Expected:
    colors = [(0, 0, 0), (52, 209, 183), (250, 50, 83)]  # background, car, road
    expected: Expected = {}
    for split, name in (("train", "frame_000000"), ("validation", "frame_000001")):
        rgb = pixels(f"cvat/SegmentationClass/{name}.png")
        labels = sum(value * (rgb == color).all(2) for value, color in enumerate(colors))
        expected[split, name] = exact(labels)
    return expected


def label_studio_labels() -> Expected:
    street, crossing = Canvas(32, 24, VOID), Canvas(32, 24, VOID)
    for value, name in ((0, "road-0"), (0, "road-1"), (1, "traffic-light-0")):
        street.mask(value, pixels(f"label-studio/task-1-annotation-11-by-1-my-tag-{name}.png"))
    crossing.mask(1, pixels("label-studio/task-2-annotation-12-by-1-my-tag-traffic-light-0.png"))
    return {("train", "street"): street.result(), ("train", "drive/crossing"): crossing.result()}


def voc_labels() -> Expected:
    names = {"train": "2007_000032", "val": "2007_000033"}
    path = "voc/VOCdevkit/VOC2012/SegmentationClass"
    return {(split, name): exact(pixels(f"{path}/{name}.png")) for split, name in names.items()}


def bdd100k_labels() -> Expected:
    names = {"train": "0004a4c0-d4dff0ad", "val": "7d2f7975-e0c1c5a7"}
    path = "bdd100k/bdd100k/labels/sem_seg/masks"
    return {(split, name): exact(pixels(f"{path}/{split}/{name}.png")) for split, name in names.items()}


def kitti_labels() -> Expected:
    labels = pixels("kitti/training/semantic/000000_10.png")
    values = {23: 10, 7: 0, 26: 13, 4: VOID}  # sky, road, car, static
    return {("train", "000000_10"): exact(sum(value * (labels == number) for number, value in values.items()))}


def camvid_labels(values: dict[str, int]) -> Expected:
    rgb = pixels("camvid/LabeledApproved_full/0001TP_006690_L.png")
    lines = [line.split() for line in (EXPORTS / "camvid/label_colors.txt").read_text().splitlines()]
    colors = {name: tuple(map(int, color)) for *color, name in lines}
    labels = sum(value * (rgb == colors[name]).all(2) for name, value in values.items())
    return {("train", "0001TP_006690"): exact(labels)}


def camvid_32_labels() -> Expected:
    names = ("Sky", "Wall", "Road", "LaneMkgsDriv", "SUVPickupTruck", "TrafficLight")
    return camvid_labels({**dict(zip(names, (21, 30, 17, 10, 22, 24), strict=True)), "Void": VOID})


def camvid_11_labels() -> Expected:
    names = ("Sky", "Wall", "Road", "LaneMkgsDriv", "SUVPickupTruck", "TrafficLight")
    return camvid_labels({**dict(zip(names, (0, 1, 3, 3, 8, 6), strict=True)), "Void": VOID})


CASES: dict[str, tuple[str, tuple[str, ...], Callable[[], Expected]]] = {
    "bdd100k": ("bdd100k", (), bdd100k_labels),
    "camvid": ("camvid", (), camvid_32_labels),
    "camvid-11": ("camvid", ("--classes", "11"), camvid_11_labels),
    "coco": ("coco", (), coco_labels),
    "coco-panoptic": ("coco", (), panoptic_labels),
    "cvat": ("cvat", (), cvat_labels),
    "kitti": ("kitti", (), kitti_labels),
    "label-studio": ("label-studio", (), label_studio_labels),
    "labelme": ("labelme", (), labelme_labels),
    "voc": ("voc", (), voc_labels),
}


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], Path]:
    """A function that returns a copy of an export, which a test may change."""
    return lambda name: Path(shutil.copytree(EXPORTS / name, tmp_path / "export"))


def convert(cli: Cli, source: Path, out: Path, name: str, *flags: str, code: int = 0) -> str:
    """Convert an export and return what was printed to standard error, without the progress bar."""
    actual, _, err = cli("convert", source, out, "--from", name, *flags)
    assert actual == code, err
    return "\n".join(line[line.find(kind) :] for line in err.splitlines() for kind in ("warning:", "error:") if kind in line)


def labels_of(out: Path, split: str, name: str) -> np.ndarray:
    with Image.open(out / "labels" / split / f"{name}.png") as image:
        assert image.mode == "L"
        return np.asarray(image)


@pytest.mark.parametrize("case", CASES)
def test_label_maps_equal_independent_rasterization(case: str, tmp_path: Path, cli: Cli) -> None:
    name, flags, make_expected = CASES[case]
    convert(cli, EXPORTS / case.removesuffix("-11"), tmp_path / "out", name, *flags)
    expected = make_expected()
    for (split, stem), (labels, edges) in expected.items():
        actual = labels_of(tmp_path / "out", split, stem)
        assert edges.mean() < 0.5 and np.array_equal(actual[~edges], labels[~edges]), (split, stem)
    # open_dataset pairs the files and reads the same values.
    splits = list_splits(tmp_path / "out")
    datasets = {split: open_dataset(tmp_path / "out", split) for split in splits}
    assert sum(map(len, datasets.values())) == len(expected)
    for split, dataset in datasets.items():
        for index, (image, labels) in enumerate(dataset):
            stem = Path(dataset.sample_name(index)).relative_to(tmp_path / "out/images" / split).with_suffix("")
            assert image.shape[:2] == labels.shape
            assert np.array_equal(labels, labels_of(tmp_path / "out", split, str(stem)))


def test_every_format_has_a_case() -> None:
    assert {name for name, _, _ in CASES.values()} == FORMATS.keys()


def test_polygons_equal_those_of_coco_api(tmp_path: Path, cli: Cli) -> None:
    convert(cli, EXPORTS / "coco", tmp_path / "out", "coco")
    annotation = json.loads((EXPORTS / "coco/annotations/instances_val2017.json").read_text())["annotations"][0]
    (mask,) = coco_mask.decode(coco_mask.frPyObjects(annotation["segmentation"], 30, 40)).transpose(2, 0, 1)
    assert np.array_equal(labels_of(tmp_path / "out", "val", "000000000003") == 1, mask.astype(bool))


@pytest.mark.parametrize("seed", range(5))
def test_decompressed_run_lengths_equal_those_of_coco_api(seed: int) -> None:
    mask = np.asfortranarray(np.random.default_rng(seed).random((37, 53)) < (0.02, 0.2, 0.5, 0.8, 0.99)[seed]).astype(np.uint8)
    lengths = decompress_run_lengths(coco_mask.encode(mask)["counts"].decode())
    assert np.array_equal(np.repeat(np.arange(len(lengths)) % 2, lengths), mask.ravel(order="F"))


def test_background_is_first_class_of_unannotated_pixels(tmp_path: Path, cli: Cli) -> None:
    convert(cli, EXPORTS / "coco", tmp_path / "out", "coco", "--background", "other")
    assert open_dataset(tmp_path / "out", "train").labels.names == ("other", "road", "car", "person", "sky")
    labels = labels_of(tmp_path / "out", "train", "000000000002")
    assert (labels[:15] == 0).all() and labels[28, 20] == 1
    assert labels[23, 8] == VOID  # an object of a category that is not declared


def test_background_that_is_a_class_keeps_its_index(tmp_path: Path, cli: Cli) -> None:
    convert(cli, EXPORTS / "labelme", tmp_path / "out", "labelme", "--background", "road")
    assert open_dataset(tmp_path / "out", "train").labels.names == ("car", "person", "road", "sign")
    assert labels_of(tmp_path / "out", "train", "embedded")[0, 0] == 2


def test_colors_of_panoptic_categories_are_kept(tmp_path: Path, cli: Cli) -> None:
    convert(cli, EXPORTS / "coco-panoptic", tmp_path / "out", "coco")
    assert open_dataset(tmp_path / "out", "val").labels.colors == ((0, 0, 142), (128, 64, 128), (70, 130, 180))


def test_street_data_sets_have_cityscapes_classes(tmp_path: Path, cli: Cli) -> None:
    for name in ("bdd100k", "kitti"):
        convert(cli, EXPORTS / name, tmp_path / name, name)
        labels = open_dataset(tmp_path / name, "train").labels
        assert labels.describe_difference(CITYSCAPES) is None and labels.colors == CITYSCAPES.colors


def test_classes_flag_selects_and_orders_labels(tmp_path: Path, cli: Cli) -> None:
    err = convert(cli, EXPORTS / "labelme", tmp_path / "out", "labelme", "--classes", "road, car")
    assert open_dataset(tmp_path / "out", "train").labels.names == ("road", "car")
    assert "street.json: the label 'sign' is not in --classes" in err


def test_split_flag_replaces_splits_of_export(tmp_path: Path, cli: Cli) -> None:
    convert(cli, EXPORTS / "voc", tmp_path / "out", "voc", "--split", "test")
    assert list_splits(tmp_path / "out") == ["test"] and len(open_dataset(tmp_path / "out", "test")) == 2


def test_images_are_hard_links_unless_copied(tmp_path: Path, copied: Callable[[str], Path], cli: Cli) -> None:
    source = copied("coco")
    original = source / "val2017" / "000000000003.jpg"
    for flags, linked in (((), True), (("--copy",), False)):
        out = tmp_path / f"linked-{linked}"
        convert(cli, source, out, "coco", *flags)
        image = out / "images" / "val" / original.name
        assert image.samefile(original) == linked and image.read_bytes() == original.read_bytes()


def test_source_is_not_changed(tmp_path: Path, copied: Callable[[str], Path], cli: Cli) -> None:
    source = copied("labelme")
    before = {path: path.stat().st_mtime_ns for path in source.rglob("*")}
    convert(cli, source, tmp_path / "out", "labelme")
    assert {path: path.stat().st_mtime_ns for path in source.rglob("*")} == before


def test_summary_counts_images_and_drops(tmp_path: Path, cli: Cli) -> None:
    code, out, err = cli("convert", EXPORTS / "coco", tmp_path / "out", "--from", "coco")
    assert code == 0 and out == f"{tmp_path / 'out'}: 3 images (2 in train, 1 in val), 4 classes\n"
    assert "warning: 3 not converted:" in err
    for reason in ("22 has no pixel in the image", "23 has the undeclared category_id 99", "24 has no segmentation"):
        assert f"000000000002.jpg: annotation {reason}" in err


def test_interrupted_conversion_has_no_classes_file(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "sync", interrupt)  # called when all other files are written
    assert cli("convert", EXPORTS / "voc", tmp_path / "out", "--from", "voc")[0] == 130
    assert not (tmp_path / "out" / "classes.json").exists()
    monkeypatch.undo()
    err = convert(cli, EXPORTS / "voc", tmp_path / "out", "voc", code=2)
    assert "already exists (without a classes.json, so a conversion may have been interrupted)" in err


def test_labelme_image_outside_source_stays_below_split_directory(
    tmp_path: Path, copied: Callable[[str], Path], cli: Cli
) -> None:
    source = copied("labelme")
    shutil.move(source / "street.jpg", tmp_path / "street.jpg")
    document = json.loads((source / "street.json").read_text())
    (source / "street.json").write_text(json.dumps({**document, "imagePath": "..\\street.jpg"}))
    convert(cli, source, tmp_path / "out", "labelme")
    assert len(open_dataset(tmp_path / "out", "train")) == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"images", "labels", "classes.json"}


def test_label_studio_task_without_regions_is_background(tmp_path: Path, cli: Cli) -> None:
    err = convert(cli, EXPORTS / "label-studio", tmp_path / "out", "label-studio", "--background", "other")
    assert (labels_of(tmp_path / "out", "train", "blank") == 0).all() and "task 3" not in err


def test_label_studio_task_with_missing_mask_is_reported(tmp_path: Path, copied: Callable[[str], Path], cli: Cli) -> None:
    source = copied("label-studio")
    (source / "task-1-annotation-11-by-1-my-tag-road-0.png").unlink()
    assert "task 1 has 3 regions, but 2 masks" in convert(cli, source, tmp_path / "out", "label-studio")


def test_label_studio_region_with_two_labels_is_reported(tmp_path: Path, copied: Callable[[str], Path], cli: Cli) -> None:
    source = copied("label-studio")
    tasks = json.loads((source / "project-1.json").read_text())
    tasks[0]["annotations"][1]["result"][1]["value"]["brushlabels"] = ["traffic", "light"]  # whose file has the same name
    (source / "project-1.json").write_text(json.dumps(tasks))
    err = convert(cli, source, tmp_path / "out", "label-studio")
    assert "traffic-light-0.png: the region has several labels" in err and len(open_dataset(tmp_path / "out", "train")) == 2


def test_label_studio_json_min_names_images(tmp_path: Path, copied: Callable[[str], Path], cli: Cli) -> None:
    source = copied("label-studio")
    tasks = [{"id": 2, "image": "/data/upload/1/0123abcd-crossing.jpg", "annotator": 1}]
    (source / "project-1.json").write_text(json.dumps(tasks))
    for path in source.glob("task-2-*.png"):
        path.rename(source / path.name.replace("my-tag", "tag"))
    shutil.copy(next(source.glob("task-2-*.png")), source / "task-2-annotation-12-by-1-tag-sky-0.png")
    err = convert(cli, source, tmp_path / "out", "label-studio")
    assert open_dataset(tmp_path / "out", "train").labels.names == ("sky", "traffic-light")
    assert "task 1 has masks, but is not in the JSON file" in err


def test_instances_are_not_used_beside_panoptic_annotations(tmp_path: Path, copied: Callable[[str], Path], cli: Cli) -> None:
    source = copied("coco-panoptic")
    shutil.copy(EXPORTS / "coco/annotations/instances_val2017.json", source / "annotations")
    err = convert(cli, source, tmp_path / "out", "coco")
    assert "instances_val2017.json: there is a panoptic file" in err and len(open_dataset(tmp_path / "out", "val")) == 1


def edit_coco(source: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = source / "annotations" / "instances_train2017.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(("segmentation", "reason"), [
    ([[1, 2, 3, 4]], "a polygon of 4 coordinates; expected three corners or more"),
    ([[1, 2, 30, 4, 1e9, 9]], "a point far outside the image"),
    ([[1, 2, 30, 4, float("nan"), 9]], "a point far outside the image"),
    ({"size": [30, 40], "counts": [1, 2]}, "run lengths that do not add up to the 40x30 pixels"),
    ({"size": [30, 40], "counts": ""}, "run lengths that do not add up to the 40x30 pixels"),
    ({"size": [30, 40], "counts": "é"}, "compressed run lengths with the character 'é'"),
    ({"size": [40, 30], "counts": [1200]}, "a run-length mask of 30x40 pixels, but the image has 40x30"),
])  # fmt: skip
def test_unusable_segmentation_is_reported(
    segmentation: Any, reason: str, tmp_path: Path, copied: Callable[[str], Path], cli: Cli
) -> None:
    source = copied("coco")
    edit_coco(source, lambda document: document["annotations"][0].update(segmentation=segmentation))
    err = convert(cli, source, tmp_path / "out", "coco")
    assert f"000000000001.jpg: annotation 11 has {reason}" in err and len(open_dataset(tmp_path / "out", "train")) == 2


def test_missing_and_other_sized_images_are_reported(tmp_path: Path, copied: Callable[[str], Path], cli: Cli) -> None:
    source = copied("coco")
    (source / "train2017" / "000000000001.jpg").unlink()
    edit_coco(source, lambda document: document["images"][1].update(width=30, height=40))
    err = convert(cli, source, tmp_path / "out", "coco")
    assert "000000000001.jpg: no such image below" in err
    assert "the annotation is for 30x40 pixels, but the image has 40x30; its EXIF orientation rotates the image" in err
    assert list_splits(tmp_path / "out") == ["val"]


def test_damaged_image_is_reported(tmp_path: Path, copied: Callable[[str], Path], cli: Cli) -> None:
    source = copied("cvat")
    (source / "JPEGImages" / "frame_000000.jpg").write_bytes(b"\xff\xd8\xff")
    assert "frame_000000.jpg: the image is damaged" in convert(cli, source, tmp_path / "out", "cvat")


def test_color_that_is_no_class_is_reported(tmp_path: Path, copied: Callable[[str], Path], cli: Cli) -> None:
    source = copied("cvat")
    (source / "labelmap.txt").write_text("background:0,0,0::\ncar:52,209,183::\n")
    err = convert(cli, source, tmp_path / "out", "cvat", code=2)
    assert "no image can be converted: " in err and "have the color (250, 50, 83)" in err
    assert not (tmp_path / "out").exists()


def test_image_without_annotation_is_reported(tmp_path: Path, copied: Callable[[str], Path], cli: Cli) -> None:
    source = copied("coco")
    edit_coco(source, lambda document: document.update(annotations=document["annotations"][:4]))
    assert "000000000002.jpg: no pixel has a class" in convert(cli, source, tmp_path / "out", "coco")


def test_equal_names_in_one_directory_are_reported(tmp_path: Path, copied: Callable[[str], Path], cli: Cli) -> None:
    source = copied("coco")
    with Image.open(source / "train2017" / "000000000001.jpg") as image:
        image.save(source / "train2017" / "000000000001.png")
    extra = {"id": 9, "file_name": "000000000001.png", "width": 40, "height": 30}
    edit_coco(source, lambda document: document["images"].append(extra))
    assert "000000000001.png: has the same name as" in convert(cli, source, tmp_path / "out", "coco")


@pytest.mark.parametrize(("shape", "reason"), [
    ({"shape_type": "circle", "points": [[1e308, 0], [-1e308, 0]]}, "a point far outside the image"),
    ({"shape_type": "mask", "points": [[0, float("inf")], [9, 9]]}, "a point far outside the image"),
    ({"shape_type": "mask", "points": [[0, 0], [9, 9]], "mask": "AAAA"}, "a mask that can't be read"),
    ({"shape_type": "rectangle", "points": [[0, 0]]}, "1 points; expected 2 for the type rectangle"),
    ({"shape_type": "rectangle", "points": [[50, 5], [60, 9]]}, "no pixel in the image"),
])  # fmt: skip
def test_unusable_shape_is_reported(
    shape: dict[str, Any], reason: str, tmp_path: Path, copied: Callable[[str], Path], cli: Cli
) -> None:
    source = copied("labelme")
    document = json.loads((source / "street.json").read_text())
    document["shapes"][3].update(shape)
    (source / "street.json").write_text(json.dumps(document))
    assert f"street.json: shape 3 (person) has {reason}" in convert(cli, source, tmp_path / "out", "labelme")


def test_damaged_embedded_image_is_reported(tmp_path: Path, copied: Callable[[str], Path], cli: Cli) -> None:
    source = copied("labelme")
    document = json.loads((source / "embedded.json").read_text())
    (source / "embedded.json").write_text(json.dumps({**document, "imageData": "é"}))
    assert "embedded.json: damaged base64 data" in convert(cli, source, tmp_path / "out", "labelme")


def test_single_class_without_background_is_refused(tmp_path: Path, copied: Callable[[str], Path], cli: Cli) -> None:
    source = copied("labelme")
    (source / "street.json").unlink()
    err = convert(cli, source, tmp_path / "out", "labelme", code=2)
    assert "has a single class, 'road'" in err and "--background other" in err
    convert(cli, source, tmp_path / "out", "labelme", "--background", "other")


@pytest.mark.parametrize(("flags", "message"), [
    (("--from", "cocoo"), "--from: unknown format 'cocoo' (did you mean coco?); known: bdd100k, camvid, coco"),
    (("--from", "voc", "--background", "x"), "--background: not used by voc, only by coco, label-studio, labelme"),
    (("--from", "labelme", "--classes", "a,,b"), "--classes: has an empty name"),
    (("--from", "camvid", "--classes", "12"), "--classes: expected 11 or 32 for CamVid, got 12"),
    (("--from", "voc", "--split", "../x"), "--split: expected the name of a directory"),
    (("--from", "kitti"), "not an export of this format; expected SOURCE/training/image_2 and SOURCE/training/semantic"),
    (("--from", "labelme"), "has no usable LabelMe file; expected *.json"),
    (("--from", "coco"), "has no COCO annotation file; expected a JSON file"),
    (("--from", "label-studio"), "has no JSON file; export the project also as JSON"),
    (("--from", "camvid"), "label_colors.txt: no such file; download it"),
])  # fmt: skip
def test_wrong_arguments_are_refused(flags: tuple[str, ...], message: str, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = cli("convert", tmp_path / "empty", tmp_path / "out", *flags)
    assert code == 2 and message in err and not (tmp_path / "out").exists()


def test_output_directory_that_is_not_empty_is_refused(plain_dataset: Path, cli: Cli) -> None:
    err = convert(cli, EXPORTS / "voc", plain_dataset, "voc", code=2)
    assert f"{plain_dataset}: already exists; delete it" in err


def test_output_in_source_is_refused(copied: Callable[[str], Path], cli: Cli) -> None:
    source = copied("voc")
    assert "where nothing is written" in convert(cli, source, source / "out", "voc", code=2)


def test_file_of_other_kind_is_refused(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "export.zip").write_bytes(b"PK\x03\x04")
    assert "unpack it" in convert(cli, tmp_path / "export.zip", tmp_path / "out", "cvat", code=2)


def test_categories_that_differ_between_files_are_refused(tmp_path: Path, copied: Callable[[str], Path], cli: Cli) -> None:
    source = copied("coco")
    edit_coco(source, lambda document: document["categories"].reverse())
    assert "its categories differ from those of" in convert(cli, source, tmp_path / "out", "coco", code=2)


def test_masks_without_images_are_refused(tmp_path: Path, copied: Callable[[str], Path], cli: Cli) -> None:
    source = copied("cvat")
    shutil.rmtree(source / "JPEGImages")
    assert "select `Save images`" in convert(cli, source, tmp_path / "out", "cvat", code=2)


def test_converted_dataset_can_be_trained_and_segmented(tmp_path: Path, cli: Cli) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    convert(cli, EXPORTS / "coco", data, "coco", "--background", "other")
    tiny = ("--model", "ddunet", "--width", 2, "--size", 32, 32, "--epochs", 1, "--batch-size", 1, "--workers", 0)
    code, _, err = cli("train", "--data", data, "--run", run, *tiny)
    assert code == 0, err
    image = data / "images" / "val" / "000000000003.jpg"
    code, _, err = cli("predict", run, image, "--out", tmp_path / "masks")
    assert code == 0, err
    with Image.open(tmp_path / "masks" / "000000000003.png") as mask:
        assert mask.size == (40, 30) and np.asarray(mask).max() < 5
