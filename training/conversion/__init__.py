"""Conversion of exports of annotation tools and of public data sets to the plain layout: one file per format."""

# The formats, and the flags that each one uses besides those of all formats. NAME is read by the module of that name.
FORMATS: dict[str, tuple[str, ...]] = {
    "bdd100k": (),
    "camvid": ("--classes",),
    "coco": ("--background",),
    "cvat": (),
    "kitti": (),
    "label-studio": ("--background", "--classes"),
    "labelme": ("--background", "--classes"),
    "voc": (),
}
