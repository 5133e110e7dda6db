"""Checks of a scanned dataset for labels that can be read but can't be meant, such as a class without any pixel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from core.data.labels import CITYSCAPES, IGNORE_INDEX, LabelSpace
from core.errors import InputError

MAX_TRAIN_ID = len(CITYSCAPES) - 1


def check_classes(name: str, labels: LabelSpace, file_labels: LabelSpace, train: Sequence[int], val: Sequence[int]) -> None:
    """Raise InputError if the training labels of the dataset `name` can't be what the user means.

    Args:
        labels: The classes.
        file_labels: The classes of the label files, with the ids that they have there.
        train: Pixels of each class in the training split, (K,).
        val: The same of the validation split.
    """
    in_train, in_val = np.array(train) > 0, np.array(val) > 0
    # A dataset may have some of the classes only if it is one of several.
    absent_classes = [k for k in sorted(set(file_labels.class_map(labels)) - {IGNORE_INDEX}) if not in_train[k]]
    if in_train.sum() == 1 and absent_classes:
        present = labels.names[int(in_train.argmax())]
        absent = ", ".join(repr(labels.names[k]) for k in absent_classes)
        void = ", ".join(map(str, file_labels.void_ids))
        raise InputError(
            f"{name}: all labeled pixels of train are {present!r}; no pixel is {absent}. The value {void} in a label file is"
            ' void: if it means a class, give it that "id" in classes.json and another value to "void"'
        )
    ids = [CITYSCAPES.ids[k] if k != IGNORE_INDEX else 0 for k in labels.class_map(CITYSCAPES)]
    if file_labels == CITYSCAPES and not (in_train | in_val)[np.array(ids) > MAX_TRAIN_ID].any():
        raise InputError(
            f"{name}: the label files have no value above {MAX_TRAIN_ID} but void, so they probably hold train ids (0 is road)"
            " instead of label ids (7 is road); rename them to *_gtFine_labelTrainIds.png, or use --label-ids train"
        )


def class_warnings(labels: LabelSpace, train: Sequence[int], val: Sequence[int]) -> list[str]:
    """Return a line about the classes without a pixel in train, and one about those that only val lacks.

    Args:
        labels: The classes.
        train: Pixels of each class in the training split, (K,).
        val: The same of the validation split.
    """
    in_train, in_val = np.array(train) > 0, np.array(val) > 0
    names = np.array(labels.names)
    warnings = []
    if not in_train.all():
        is_first_missing = not in_train[0] and bool(in_train[1:].all())
        shifted = "; are the ids in the label files larger by one than in classes.json?" if is_first_missing else ""
        only_in_val = names[in_val & ~in_train]
        scored = f"; val has {', '.join(only_in_val)}, which will score 0" if only_in_val.size else ""
        warnings.append(f"no pixel of train is {', '.join(names[~in_train])}: can't be learned{scored}{shifted}")
    if (in_train & ~in_val).any():
        warnings.append(f"no pixel of val is {', '.join(names[in_train & ~in_val])}: no score can be computed")
    return warnings


def duplicate_warnings(train: Iterable[str], val: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line about images of val that are also in train.

    Args:
        train: Digest of the pixels of each image of train.
        val: Name and digest of each image of val.
    """
    seen = set(train)
    names = [name for name, digest in val if digest in seen]
    if not names:
        return []
    return [f"{len(names):,} images of val are also in train, such as {names[0]}: scores will be too high"]
