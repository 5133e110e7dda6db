"""BDD100K, semantic segmentation: images/10k/SPLIT/*.jpg and labels/sem_seg/masks/SPLIT/*.png with Cityscapes train ids.

Source: https://doc.bdd100k.com/format.html
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from core.data.labels import CITYSCAPES
from training.conversion.export import ConversionOptions, Export, pair_files, read_label_file
from training.conversion.source_files import find_root, index_by_stem

IMAGES, LABELS = "images/10k", "labels/sem_seg/masks"


def read_export(source: Path, options: ConversionOptions) -> Export:
    """Read all splits. Raises InputError."""
    root = find_root(source, IMAGES, LABELS)
    export = Export(CITYSCAPES, [])
    for directory in sorted(path for path in (root / IMAGES).iterdir() if path.is_dir()):
        split = directory.name
        images, labels = index_by_stem(directory), index_by_stem(root / LABELS / split, (".png",))
        pair_files(export, split, images, labels, partial(read_label_file, CITYSCAPES.as_train_ids()))
    return export
