"""Tests of core.checkpoints.checkpoint: round trips, and a clear error for every file that is not a valid checkpoint."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch

from core.checkpoints import safetensors_io
from core.checkpoints.checkpoint import (
    Architecture,
    CheckpointMetadata,
    find_checkpoint,
    read_checkpoint,
    read_metadata,
    write_checkpoint,
)
from core.data.labels import CITYSCAPES
from core.errors import CheckpointError, TrainingError
from core.images.resize import Preprocess


def make_metadata(architecture: str = "ddunet") -> CheckpointMetadata:
    return CheckpointMetadata(
        architecture=Architecture(name=architecture, width=4),
        labels=CITYSCAPES,
        preprocess=Preprocess(),
        data="x",
        epoch=3,
        scores={"miou": 0.5},
    )


def test_read_returns_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(7, np.int64), "e": np.zeros((0, 2), np.float32)}
    digest = write_checkpoint(path, make_metadata(), tensors)
    checkpoint = read_checkpoint(path)
    assert (checkpoint.name, checkpoint.digest, checkpoint.metadata) == ("a", digest, make_metadata())
    assert checkpoint.tensors.keys() == tensors.keys()
    for name, expected in tensors.items():
        tensor = checkpoint.tensors[name]
        assert (tensor.dtype, tensor.shape, tensor.tolist()) == (expected.dtype, expected.shape, expected.tolist())


def test_metadata_is_read_without_weights(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, make_metadata(), {"w": np.arange(6, dtype=np.float32)})
    path.write_bytes(path.read_bytes()[:-24])  # the header alone
    assert read_metadata(path) == make_metadata()
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


def test_metadata_of_other_file_raises(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        read_metadata(tmp_path / "a")


def test_safetensors_library_reads_checkpoint(checkpoint: Path) -> None:
    with safetensors.safe_open(str(checkpoint), "np") as file:
        assert json.loads(file.metadata()["segment"])["architecture"] == {"name": "ddunet", "width": 4}
        assert "head.weight" in file.keys()  # noqa: SIM118 -- not a dict


def test_digest_depends_on_metadata_and_tensors(tmp_path: Path) -> None:
    tensors = {"w": np.ones(3, np.float32)}
    digest = write_checkpoint(tmp_path / "1", make_metadata(), tensors)
    assert write_checkpoint(tmp_path / "2", make_metadata(), tensors) == digest
    others = {
        write_checkpoint(tmp_path / "3", make_metadata("unet"), tensors),
        write_checkpoint(tmp_path / "4", make_metadata(), {"v": np.ones(3, np.float32)}),
        write_checkpoint(tmp_path / "5", make_metadata(), {"w": np.ones((3, 1), np.float32)}),
        write_checkpoint(tmp_path / "6", make_metadata(), {"w": np.ones(3, np.float64)}),
    }
    assert len(others) == 4 and digest not in others


def test_any_flipped_bit_is_detected(checkpoint: Path, tmp_path: Path) -> None:
    data = checkpoint.read_bytes()
    path = tmp_path / "flipped.safetensors"
    rng = np.random.default_rng(0)
    header_end = int.from_bytes(data[:8], "little") + 8
    offsets = [*range(8), *rng.integers(8, header_end, 196), *rng.integers(header_end, len(data), 196)]
    for offset in offsets:
        damaged = bytearray(data)
        damaged[offset] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"flipped\.safetensors"):
            read_checkpoint(path)


@pytest.mark.parametrize("length", [0, 5, 100, 0.5, 0.99])
def test_truncated_file_is_rejected(checkpoint: Path, tmp_path: Path, length: float) -> None:
    """`length` is in bytes, or as a float a fraction of the file."""
    data = checkpoint.read_bytes()
    path = tmp_path / "short.safetensors"
    path.write_bytes(data[: length if isinstance(length, int) else int(len(data) * length)])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        read_checkpoint(path)


def test_trailing_bytes_are_rejected(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.safetensors"
    path.write_bytes(checkpoint.read_bytes() + b"xyz")
    with pytest.raises(CheckpointError, match=r"long\.safetensors"):
        read_checkpoint(path)


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickle_is_rejected_and_not_executed(tmp_path: Path, protocol: int) -> None:
    class Exploit:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "executed",)

    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Exploit(), protocol=protocol))
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    assert not (tmp_path / "executed").exists()


def test_torch_file_is_rejected(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"a pickle .* expected \.safetensors"):
        read_checkpoint(tmp_path / "model.pt")


def test_safetensors_file_without_metadata_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(safetensors.numpy.save({"w": np.ones(2, np.float32)}))
    with pytest.raises(CheckpointError, match="without the metadata of this project"):
        read_checkpoint(path)


def test_newer_schema_version_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "new.safetensors"
    safetensors_io.write(path, {**make_metadata().model_dump(mode="json"), "schema_version": 3}, {})
    with pytest.raises(CheckpointError, match="schema version 3"):
        read_checkpoint(path)


def test_oversized_header_is_rejected_before_parsing(tmp_path: Path) -> None:
    path = tmp_path / "bomb.safetensors"
    path.write_bytes((8 << 20).to_bytes(8, "little") + b"{" * (8 << 20))
    with pytest.raises(CheckpointError, match="the header has 8388608 bytes"):
        read_checkpoint(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nonfinite_weights_are_neither_written_nor_read(tmp_path: Path, value: float) -> None:
    path, tensors = tmp_path / "nan.safetensors", {"w": np.array([1, value], np.float32)}
    with pytest.raises(TrainingError, match="w is not finite"):
        write_checkpoint(path, make_metadata(), tensors)
    assert not path.exists()
    safetensors_io.write(path, make_metadata().model_dump(mode="json"), tensors)
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        read_checkpoint(path)


def test_failed_write_keeps_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, make_metadata(), {"w": np.ones(2, np.float32)})
    before = path.read_bytes()

    def raise_enospc(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", raise_enospc)
    with pytest.raises(OSError, match="No space"):
        write_checkpoint(path, make_metadata(), {"w": np.zeros(2, np.float32)})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_run_dir_resolves_to_best_checkpoint(tmp_path: Path, checkpoint: Path) -> None:
    best = tmp_path / "runs" / "mine" / "checkpoints" / "best.safetensors"
    best.parent.mkdir(parents=True)
    best.write_bytes(checkpoint.read_bytes())
    assert find_checkpoint(tmp_path / "runs" / "mine") == ("mine", best)


def test_directory_without_checkpoints_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a directory without checkpoints/best"):
        find_checkpoint(tmp_path)


def test_missing_checkpoint_is_reported() -> None:
    with pytest.raises(CheckpointError, match=r"nowhere: no such checkpoint; expected a \.safetensors file, a run directory"):
        find_checkpoint("nowhere")
