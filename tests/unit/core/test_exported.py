"""Tests of core.checkpoints.exported."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.checkpoints import safetensors_io
from core.checkpoints.exported import BIN_FILE, XML_FILE, ExportManifest, read_exported_model, write_exported_model


def write_export(directory: Path, content: bytes) -> str:
    manifest = ExportManifest(precision="fp32", checkpoint_digest="checkpoint", files={})
    return write_exported_model(directory, manifest, {XML_FILE: content, BIN_FILE: content})


def test_export_that_is_replaced_during_a_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "model.fp32"
    write_export(directory, b"old")
    read_bytes, digests = safetensors_io.read_bytes, []

    def replace_before_last_file(path: Path) -> bytes:
        if path.name == BIN_FILE and not digests:
            digests.append(write_export(directory, b"new"))
        return read_bytes(path)

    monkeypatch.setattr(safetensors_io, "read_bytes", replace_before_last_file)
    exported = read_exported_model(directory, "checkpoint")
    assert exported.files == {XML_FILE: b"new", BIN_FILE: b"new"} and exported.digest == digests[0]
