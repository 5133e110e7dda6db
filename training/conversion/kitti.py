"""KITTI, semantic segmentation: training/image_2 and training/semantic with the label ids of Cityscapes.

Source: http://www.cvlibs.net/datasets/kitti/eval_semseg.php
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from core.data.labels import CITYSCAPES
from training.conversion.export import ConversionOptions, Export, pair_files, read_label_file
from training.conversion.source_files import TRAIN, find_root, index_by_stem

IMAGES, LABELS = "training/image_2", "training/semantic"


def read_export(source: Path, options: ConversionOptions) -> Export:
    """Read the training images; those for testing have no labels. Raises InputError."""
    root = find_root(source, IMAGES, LABELS)
    images, labels = index_by_stem(root / IMAGES), index_by_stem(root / LABELS, (".png",))
    export = Export(CITYSCAPES, [])
    pair_files(export, TRAIN, images, labels, partial(read_label_file, CITYSCAPES))
    return export
