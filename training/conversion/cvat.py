"""CVAT, "Segmentation mask 1.1": the layout of PASCAL VOC with color PNGs, and labelmap.txt with the classes.

Source: https://docs.cvat.ai/docs/dataset_management/formats/format-smask/
"""

from __future__ import annotations

from pathlib import Path

from core.data.labels import Color, LabelSpace
from core.errors import InputError
from training.conversion.export import ConversionOptions, Export, make_classes
from training.conversion.source_files import find_root, read_file
from training.conversion.voc import IMAGES, LABELS, read_voc_layout

LABEL_MAP = "labelmap.txt"


def read_export(source: Path, options: ConversionOptions) -> Export:
    """Read the images that the lists name; `background` is a class if labelmap.txt has it. Raises InputError."""
    root = find_root(source, LABEL_MAP, LABELS)
    if not (root / IMAGES).is_dir():
        raise InputError(f"{root / IMAGES}: no such directory; in CVAT, select `Save images` when you export the masks")
    return read_voc_layout(root, _read_label_map(root / LABEL_MAP))


def _read_label_map(path: Path) -> LabelSpace:
    """Read lines such as `road:128,64,128::` (name, color, parts, actions)."""
    names: list[str] = []
    colors: list[Color] = []
    for line in read_file(path).decode(errors="replace").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        try:
            name, color, _, _ = line.rsplit(":", 3)
            red, green, blue = map(int, color.split(","))
        except ValueError:
            raise InputError(f"{path}: can't be read at {line!r}; expected NAME:RED,GREEN,BLUE:PARTS:ACTIONS") from None
        names.append(name.strip())
        colors.append((red, green, blue))
    return make_classes(path.parent, names, colors)
