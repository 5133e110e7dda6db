"""Checkpoints: what is written is what is read, and anything else is one clear error."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from core.checkpoints import safetensors_io
from core.checkpoints.checkpoint import Architecture, Card, find_checkpoint, read_checkpoint, write_checkpoint
from core.data.labels import CITYSCAPES
from core.errors import CheckpointError, RunError
from core.images.resize import Preprocess
from core.inference.segmenter import Segmenter


def card(name: str = "ddunet", width: int = 4) -> Card:
    architecture = Architecture(name=name, width=width)
    return Card(
        architecture=architecture, labels=CITYSCAPES, preprocess=Preprocess(), data="x", epoch=3, scores={"macro_iou": 0.5}
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(7, np.int64), "e": np.zeros((0, 2), np.float32)}
    own = write_checkpoint(path, card(), tensors)
    read = read_checkpoint(path)
    assert (read.name, read.digest, read.card) == ("a", own, card())
    assert {k: (v.dtype, v.shape, v.tolist()) for k, v in read.tensors.items()} == {
        k: (v.dtype, v.shape, v.tolist()) for k, v in tensors.items()
    }


def test_any_safetensors_reader_can_read_it(checkpoint: Path) -> None:
    from safetensors import safe_open

    with safe_open(str(checkpoint), "np") as file:
        assert json.loads(file.metadata()["segment"])["architecture"] == {"name": "ddunet", "width": 4}
        assert "head.weight" in file.keys()  # noqa: SIM118 -- not a dict


def test_equal_content_has_an_equal_digest_and_other_content_another(tmp_path: Path) -> None:
    tensors = {"w": np.ones(3, np.float32)}
    digests = [
        write_checkpoint(tmp_path / "1", card(), tensors),
        write_checkpoint(tmp_path / "2", card(), tensors),
        write_checkpoint(tmp_path / "3", card("unet"), tensors),
        write_checkpoint(tmp_path / "4", card(), {"v": np.ones(3, np.float32)}),
        write_checkpoint(tmp_path / "5", card(), {"w": np.ones((3, 1), np.float32)}),
        write_checkpoint(tmp_path / "6", card(), {"w": np.ones(3, np.float64)}),
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 5


def test_every_single_bit_flip_is_noticed(checkpoint: Path, tmp_path: Path) -> None:
    data = checkpoint.read_bytes()
    path = tmp_path / "flipped.safetensors"
    rng = np.random.default_rng(0)
    header = int.from_bytes(data[:8], "little") + 8
    places = [*range(8), *rng.integers(8, header, 196), *rng.integers(header, len(data), 196)]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"flipped\.safetensors"):
            read_checkpoint(path)


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, 0.99])
def test_a_truncated_file_is_told(checkpoint: Path, tmp_path: Path, keep: float) -> None:
    data = checkpoint.read_bytes()
    path = tmp_path / "short.safetensors"
    path.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        read_checkpoint(path)


def test_trailing_bytes_are_told(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.safetensors"
    path.write_bytes(checkpoint.read_bytes() + b"xyz")
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Bomb(), protocol=protocol))
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_a_torch_file_is_told_for_what_it_is(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"a pickle .* expected \.safetensors"):
        read_checkpoint(tmp_path / "model.pt")


def test_somebody_else_s_safetensors_is_told(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(safetensors.numpy.save({"w": np.ones(2, np.float32)}))
    with pytest.raises(CheckpointError, match="not one that this project wrote"):
        read_checkpoint(path)


def test_a_schema_from_the_future_is_told(tmp_path: Path) -> None:
    path = tmp_path / "new.safetensors"
    safetensors_io.write(path, {**card().model_dump(mode="json"), "schema_version": 2}, {})
    with pytest.raises(CheckpointError, match="schema version 2"):
        read_checkpoint(path)


def test_a_header_bomb_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "bomb.safetensors"
    path.write_bytes((8 << 20).to_bytes(8, "little") + b"{" * (8 << 20))
    with pytest.raises(CheckpointError, match="its header has 8388608 bytes"):
        read_checkpoint(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_neither_written_nor_read(tmp_path: Path, value: float) -> None:
    path, tensors = tmp_path / "nan.safetensors", {"w": np.array([1, value], np.float32)}
    with pytest.raises(RunError, match="w is not finite"):
        write_checkpoint(path, card(), tensors)
    assert not path.exists()
    safetensors_io.write(path, card().model_dump(mode="json"), tensors)
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        read_checkpoint(path)


def test_weights_of_another_architecture_are_told(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "wrong.safetensors"
    write_checkpoint(path, card("unet"), read_checkpoint(checkpoint).tensors)
    with pytest.raises(CheckpointError, match="do not fit its architecture"):
        Segmenter(path)


def test_an_architecture_that_is_not_known_is_told(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "wrong.safetensors"
    write_checkpoint(path, card("segnet"), read_checkpoint(checkpoint).tensors)
    with pytest.raises(CheckpointError, match="'segnet'; this program knows unet, r2unet, ddunet"):
        Segmenter(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, card(), {"w": np.ones(2, np.float32)})
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_checkpoint(path, card(), {"w": np.zeros(2, np.float32)})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_run_folder_is_its_best(tmp_path: Path, checkpoint: Path) -> None:
    best = tmp_path / "runs" / "mine" / "checkpoints" / "best.safetensors"
    best.parent.mkdir(parents=True)
    best.write_bytes(checkpoint.read_bytes())
    assert find_checkpoint(tmp_path / "runs" / "mine") == ("mine", best)


def test_a_folder_that_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a folder without checkpoints/best"):
        find_checkpoint(tmp_path)
