"""CamVid in its original colors: NAME.png, its label NAME_L.png, and label_colors.txt with the color of each class.

Source: http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core.data.labels import IGNORE_INDEX, Color, LabelSpace
from core.errors import InputError
from core.runtime.files import list_files
from training.conversion.export import ConversionOptions, Drawing, Export, Size, make_classes, pair_files, read_label_file
from training.conversion.source_files import TRAIN, index_by_stem, read_file

COLORS_FILE = "label_colors.txt"
LABEL_ENDING = "_L"
VOID = "Void"
# The classes that SegNet (Badrinarayanan, Kendall and Cipolla 2017) distinguishes, and the original ones in each of them.
ELEVEN_CLASSES = {
    "Sky": ("Sky",),
    "Building": ("Building", "Archway", "Bridge", "Tunnel", "Wall"),
    "Pole": ("Column_Pole", "TrafficCone"),
    "Road": ("Road", "LaneMkgsDriv", "LaneMkgsNonDriv"),
    "Pavement": ("Sidewalk", "ParkingBlock", "RoadShoulder"),
    "Tree": ("Tree", "VegetationMisc"),
    "SignSymbol": ("SignSymbol", "Misc_Text", "TrafficLight"),
    "Fence": ("Fence",),
    "Car": ("Car", "OtherMoving", "SUVPickupTruck", "Train", "Truck_Bus"),
    "Pedestrian": ("Pedestrian", "Animal", "CartLuggagePram", "Child"),
    "Bicyclist": ("Bicyclist", "MotorcycleScooter"),
}


def read_export(source: Path, options: ConversionOptions) -> Export:
    """Read all images that have a label. `Void` is void. Raises InputError."""
    if options.classes not in (None, ("11",), ("32",)):
        raise InputError(f"--classes: expected 11 or 32 for CamVid, got {','.join(options.classes or ())}")
    original = _read_colors(source)
    classes, table = original, np.arange(256, dtype=np.uint8)
    if options.classes == ("11",):
        classes, table = _group_classes(original)
    files = {Path(name).name: path for name, path in index_by_stem(source).items()}
    labels = {stem.removesuffix(LABEL_ENDING): path for stem, path in files.items() if stem.endswith(LABEL_ENDING)}
    images = {stem: path for stem, path in files.items() if not stem.endswith(LABEL_ENDING)}
    export = Export(classes, [])
    pair_files(export, TRAIN, images, labels, partial(_draw, original, table))
    return export


def _read_colors(source: Path) -> LabelSpace:
    """Read label_colors.txt, whose lines are `64 128 64 Animal`. Raises InputError."""
    path = next((path for path in list_files(source) if path.name == COLORS_FILE), None)
    if path is None:
        raise InputError(f"{source / COLORS_FILE}: no such file; download it from CamVid's website into this directory")
    colors: dict[str, Color] = {}
    for line in read_file(path).decode(errors="replace").splitlines():
        if line.strip():
            try:
                red, green, blue, name = line.split()
                colors[name] = int(red), int(green), int(blue)
            except ValueError:
                raise InputError(f"{path}: can't be read at {line!r}; expected RED GREEN BLUE NAME") from None
    void_color = colors.pop(VOID, (0, 0, 0))
    classes = make_classes(source, list(colors), list(colors.values()))
    return LabelSpace.model_validate({**classes.model_dump(), "void_colors": (void_color,)})


def _group_classes(original: LabelSpace) -> tuple[LabelSpace, npt.NDArray[np.uint8]]:
    """Return the eleven classes in the colors of their first original one, and their index for each original index."""
    table = np.full(256, IGNORE_INDEX, np.uint8)
    colors = []
    for index, (name, members) in enumerate(ELEVEN_CLASSES.items()):
        missing = set(members) - set(original.names)
        if missing:
            raise InputError(
                f"{COLORS_FILE}: has no {' and no '.join(sorted(missing))}, which {name} of --classes 11 consists of"
            )
        table[[original.names.index(member) for member in members]] = index
        colors.append(original.colors[original.names.index(members[0])])
    return make_classes(Path(original.name), list(ELEVEN_CLASSES), colors), table


def _draw(original: LabelSpace, table: npt.NDArray[np.uint8], path: Path, size: Size) -> Drawing:
    labels, problems = read_label_file(original, path, size)
    return table[labels], problems
