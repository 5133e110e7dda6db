"""PASCAL VOC: JPEGImages, SegmentationClass with palette PNGs, and lists of the images of each split.

Source: VOC2012 development kit, http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from core.data.labels import LabelSpace
from core.errors import InputError
from core.runtime.files import list_files
from training.conversion.export import ConversionOptions, Export, ExportImage, make_classes, read_label_file, voc_color
from training.conversion.source_files import TRAIN, as_split, find_root, index_by_stem, read_file

IMAGES, LABELS, LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"
UNION = "trainval"  # the list that repeats those of train and val
CLASS_NAMES = (
    *(
        "background",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "diningtable",
        "dog",
    ),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def read_export(source: Path, options: ConversionOptions) -> Export:
    """Read the images that the lists name, with the 21 classes of PASCAL VOC; 255, the border of objects, is void."""
    root = find_root(source, IMAGES, LABELS)
    return read_voc_layout(root, make_classes(source, CLASS_NAMES, [voc_color(index) for index in range(len(CLASS_NAMES))]))


def read_voc_layout(root: Path, classes: LabelSpace) -> Export:
    """Read the images that the lists name, or all labeled images if there are no lists. Raises InputError."""
    export = Export(classes, [])
    images, labels = index_by_stem(root / IMAGES), index_by_stem(root / LABELS, (".png",))
    splits = _read_lists(root / LISTS) or {TRAIN: sorted(labels)}
    for split, names in splits.items():
        for name in names:
            if name in images and name in labels:
                draw = partial(read_label_file, classes, labels[name])
                export.images.append(ExportImage(images[name], as_split(split), draw))
            else:
                missing = root / LABELS if name in images else root / IMAGES
                export.problems.append(f"{missing / name}: no such file, but {split}.txt has this name")
    return export


def _read_lists(directory: Path) -> dict[str, list[str]]:
    """Return the names in each list of a directory; without that of train and val together if there are both."""
    splits: dict[str, list[str]] = {}
    for path in list_files(directory):
        if path.suffix == ".txt":
            try:
                lines = read_file(path).decode().splitlines()
            except UnicodeDecodeError:
                raise InputError(f"{path}: not UTF-8; expected a name in each line") from None
            splits[path.stem] = [line.strip() for line in lines if line.strip()]
    if {TRAIN, "val"} <= splits.keys():
        splits.pop(UNION, None)
    return splits
