"""Upgrade documents of schema version 1 (checkpoints, exported models, run directories, reports) to version 2.

Version 1 was written up to release 0.1. Each function takes a document as it was read and returns
a new one; a document of another version is returned unchanged.
"""

from __future__ import annotations

from typing import Any

Document = dict[str, Any]

SCORE_KEYS = {"macro_iou": "miou", "macro_iou_labelled": "miou_present"}
LABEL_SPACE_KEYS = {"colours": "colors"}
CHECKPOINT_KEYS = {"legs": "stages", "licence": "license", "limits": "limitations"}
EXPORT_KEYS = {
    "source": "checkpoint_digest",
    "source_scores": "checkpoint_scores",
    "same_pixels": "pixel_agreement",
    "kept": "fp32_layers",
    "made_with": "package_versions",
}
ENVIRONMENT_KEYS = {"ranks": "world_size"}
START_KEYS = {**ENVIRONMENT_KEYS, "exact": "bitwise_reproducible"}
RESUME_KEYS = {"on": "environment", "exact": "bitwise_reproducible"}
PROTOCOL_KEYS = {"at": "score_size", "resolution": "inference_resolution", "flip": "hflip_tta"}
HISTORY_KEYS = {f"{prefix}_{old}": f"{prefix}_{new}" for prefix in ("val", "train_running") for old, new in SCORE_KEYS.items()}
R2UNET_STEM = (".enter.", ".stem.")  # old and new part of the names of weights of `r2unet`


def upgrade_checkpoint(document: Document) -> Document:
    """Return the metadata of a checkpoint as version 2."""
    if document.get("schema_version") != 1:
        return document
    new = {**rename_keys(document, CHECKPOINT_KEYS), "schema_version": 2}
    return _within(_within(new, "scores", SCORE_KEYS), "labels", LABEL_SPACE_KEYS)


def upgrade_tensors(document: Document, tensors: dict[str, Any]) -> dict[str, Any]:
    """Return the weights of a document that was read as version 1 under their names of version 2."""
    if document.get("schema_version") != 1:
        return tensors
    return {name.replace(*R2UNET_STEM): array for name, array in tensors.items()}


def upgrade_export(document: Document) -> Document:
    """Return the manifest of an exported model as version 2."""
    if document.get("schema_version") != 1:
        return document
    new = {**rename_keys(document, EXPORT_KEYS), "schema_version": 2}
    return _within(_within(new, "scores", SCORE_KEYS), "checkpoint_scores", SCORE_KEYS)


def upgrade_resume(document: Document) -> Document:
    """Return the document of a resume file as version 2."""
    if document.get("schema_version") != 1:
        return document
    return _within({**rename_keys(document, RESUME_KEYS), "schema_version": 2}, "environment", ENVIRONMENT_KEYS)


def upgrade_run_config(document: Document) -> Document:
    """Return a run directory's `config.json` as version 2; version 1 has no `schema_version`."""
    if "schema_version" in document or not document:
        return document
    new = {"schema_version": 2, **rename_keys(document, {"legs": "stages"})}
    if isinstance(new.get("starts"), list):
        new["starts"] = [rename_keys(start, START_KEYS) if isinstance(start, dict) else start for start in new["starts"]]
    return new


def upgrade_report(document: Document) -> Document:
    """Return an evaluation report as version 2; version 1 has no `schema_version`."""
    if "schema_version" in document:
        return document
    new = {"schema_version": 2, **rename_keys(document, {"definition": "protocol"})}
    new = _within(_within(new, "protocol", PROTOCOL_KEYS), "scores", SCORE_KEYS)
    return _within(new, "intervals", SCORE_KEYS)


def rename_keys(document: Document, names: dict[str, str]) -> Document:
    """Return the document with its keys renamed, in the same order."""
    return {names.get(key, key): value for key, value in document.items()}


def _within(document: Document, key: str, names: dict[str, str]) -> Document:
    part = document.get(key)
    return {**document, key: rename_keys(part, names)} if isinstance(part, dict) else document
