"""Tests of `export --onnx` and of the back end `onnx`: the same labels as torch, metadata, and rejection of other files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from core.backends.loader import load_backend, resolve_backend
from core.backends.onnx import open_session, select_provider
from core.checkpoints.checkpoint import read_checkpoint
from core.checkpoints.onnx_file import onnx_path, read_onnx_file, write_onnx_file
from core.data.datasets import open_dataset
from core.data.labels import CITYSCAPES
from core.errors import CheckpointError, InputError
from core.images.resize import Preprocess
from core.inference.segmenter import Segmenter
from tests.support.checkpoints import make_checkpoint
from tests.support.cli import Cli
from tests.support.paths import ROOT
from training.__main__ import main
from training.export.onnx_preprocess import add_preprocessing


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A U-Net with an ONNX file beside it; tests must not change them."""
    path = make_checkpoint(tmp_path_factory.mktemp("exported") / "random.safetensors", "unet")
    assert main(["export", str(path), "--onnx"]) == 0
    return path


@pytest.fixture
def exported_copy(exported: Path, tmp_path: Path) -> Path:
    """A copy of `exported` that a test may change."""
    shutil.copytree(exported.parent, tmp_path / "copy")
    return tmp_path / "copy" / exported.name


@pytest.fixture
def converted_once(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `export` take the network of `exported` instead of converting it again, which takes seconds."""
    monkeypatch.setattr("training.export.onnx.convert", lambda checkpoint: onnx.load(onnx_path(exported)))


def assert_logits_equal_torch(path: Path, size: tuple[int, int]) -> None:
    batch = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    torch, onnx = (Segmenter(path, "cpu", backend).forward(batch)[0] for backend in ("torch", "onnx"))
    assert onnx.shape == (19, *size)
    assert np.allclose(torch, onnx, atol=1e-4) and torch.std() > 0.01


@pytest.mark.parametrize("size", [(1, 1), (7, 65), (64, 64), (48, 160)])
def test_logits_of_any_size_equal_torch(exported: Path, size: tuple[int, int]) -> None:
    assert_logits_equal_torch(exported, size)


@pytest.mark.parametrize("name", ["r2unet", "ddunet"])
def test_other_architectures_are_exported_without_warnings(tmp_path: Path, scenes: Path, cli: Cli, name: str) -> None:
    path = make_checkpoint(tmp_path / f"{name}.safetensors", name)
    code, out, error = cli("export", path, "--onnx", "--data", scenes)
    assert code == 0 and error == ""
    assert out.startswith(f"{tmp_path / name}.onnx: ") and "opset 18" in out
    assert f"% on 5 images of {scenes.name} val" in out
    assert_logits_equal_torch(path, (40, 72))


def test_graph_accepts_batches(exported: Path) -> None:
    session = open_session(onnx_path(exported).read_bytes())
    batch = np.random.default_rng(0).standard_normal((3, 3, 32, 48)).astype(np.float32)
    together = session.run(["logits"], {"image": batch})[0]
    single = np.concatenate([session.run(["logits"], {"image": image[None]})[0] for image in batch])
    assert together.shape == (3, 19, 32, 48) and np.allclose(together, single, atol=1e-5)


def test_logits_do_not_depend_on_batch(exported: Path, rgb_image: np.ndarray) -> None:
    segmenter = Segmenter(exported, backend="onnx")
    x = segmenter.preprocess_image(rgb_image)
    single, first, second = segmenter.forward(x[None])[0], *segmenter.forward(np.stack([x, x[:, ::-1].copy()]))
    assert np.array_equal(single, first) and not np.array_equal(single, second)


def test_metadata_describes_the_model(exported: Path) -> None:
    entries = onnxruntime.InferenceSession(onnx_path(exported)).get_modelmeta().custom_metadata_map
    checkpoint = read_checkpoint(exported)
    metadata = json.loads(entries["segment"])
    assert Preprocess(**metadata["preprocess"]) == checkpoint.metadata.preprocess
    assert tuple(metadata["labels"]["names"]) == CITYSCAPES.names and tuple(metadata["labels"]["ids"]) == CITYSCAPES.ids
    assert metadata["labels"]["colors"][0] == [128, 64, 128]
    assert {"license", "limitations", "code_version"} <= metadata.keys()
    assert entries["checkpoint_digest"] == checkpoint.digest
    assert entries["digest"] == load_backend(checkpoint, "cpu", "onnx").digest


def test_file_contains_no_paths(exported: Path) -> None:
    data = onnx_path(exported).read_bytes()
    assert str(ROOT).encode() not in data and b"site-packages" not in data
    assert len(data) < 1.1 * exported.stat().st_size


@pytest.mark.parametrize("flags", [{"resize": "fit"}, {"resize": "stretch", "size": (60, 50)}])
def test_labels_with_preprocessing_equal_torch(
    exported: Path, converted_once: None, tmp_path: Path, cli: Cli, scenes: Path, flags: dict
) -> None:
    path = make_checkpoint(tmp_path / "random.safetensors", "unet", **flags)  # the weights of `exported`
    code, out, _ = cli("export", path, "--onnx", "--with-preprocess")
    assert code == 0 and out.startswith(f"{tmp_path}/random.preprocess.onnx: ")
    session, torch = open_session((tmp_path / "random.preprocess.onnx").read_bytes()), Segmenter(path, "cpu", "torch")
    images = [rgb for rgb, _ in open_dataset(scenes, "val")]
    for rgb in (*images, images[0][:50, :33], images[0][:3], images[0][:1, :1]):
        labels = session.run(["labels"], {"image": np.ascontiguousarray(rgb)[None]})[0]
        expected = torch(rgb).labels
        assert labels.dtype == np.uint8 and labels.shape == (1, *rgb.shape[:2])
        assert (labels[0] == expected).mean() >= 0.99
    assert len(np.unique(torch(images[0]).labels)) > 1


def test_input_size_in_graph_equals_preprocess(exported: Path) -> None:
    preprocess = Preprocess(mode="fit", size=(64, 96), stride=16)
    model = add_preprocessing(onnx.load(onnx_path(exported)), preprocess)
    model.graph.output.append(onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, "h", "w"]))
    session = open_session(model.SerializeToString())
    for size in ((1, 1), (64, 96), (100, 100), (1, 300), (300, 1), (90, 120), (37, 411), (96, 64)):
        x = session.run(["x"], {"image": np.zeros((1, *size, 3), np.uint8)})[0]
        assert x.shape[2:] == preprocess.output_size(*size)


def test_graph_with_preprocessing_is_refused_as_back_end(exported_copy: Path, converted_once: None, cli: Cli) -> None:
    assert cli("export", exported_copy, "--onnx", "--with-preprocess", "--out", onnx_path(exported_copy))[0] == 0
    with pytest.raises(CheckpointError, match=r"random\.onnx: .* can't run it \(it contains the preprocessing\)"):
        Segmenter(exported_copy, backend="onnx")


def test_file_of_other_checkpoint_is_refused(exported_copy: Path) -> None:
    make_checkpoint(exported_copy, "unet", seed=1)
    with pytest.raises(CheckpointError, match=r"random\.onnx: made from another checkpoint"):
        Segmenter(exported_copy, backend="onnx")


def test_bit_flips_are_detected(exported_copy: Path) -> None:
    path, digest, rng = onnx_path(exported_copy), read_checkpoint(exported_copy).digest, np.random.default_rng(0)
    data = path.read_bytes()
    for position in (*rng.integers(0, len(data), 100), *range(len(data) - 180, len(data))):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"random\.onnx"):
            read_onnx_file(path, digest)
    path.write_bytes(data)
    assert read_onnx_file(path, digest).data == data


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x08"])
def test_other_file_is_refused(exported_copy: Path, data: bytes) -> None:
    onnx_path(exported_copy).write_bytes(data)
    with pytest.raises(CheckpointError, match=r"random\.onnx: damaged, changed, or not exported by this project"):
        Segmenter(exported_copy, backend="onnx")
    write_onnx_file(onnx_path(exported_copy), data, read_checkpoint(exported_copy).digest)
    with pytest.raises(CheckpointError, match=r"random\.onnx: ONNX Runtime .* can't run it"):
        Segmenter(exported_copy, backend="onnx")


def test_missing_file_suggests_command(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="no such ONNX file; run python -m training export CHECKPOINT --onnx"):
        Segmenter(checkpoint, backend="onnx")


def test_missing_onnxruntime_suggests_installation(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="pip install onnxruntime"):
        resolve_backend(read_checkpoint(exported), "cpu", "onnx")


def test_missing_packages_of_export_are_listed(checkpoint: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    code, _, error = cli("export", checkpoint, "--onnx")
    assert code == 2 and error == "error: --onnx: not installed: onnxscript; run pip install onnxscript\n"


def test_onnx_file_is_last_resort_without_torch(
    exported: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve_backend(read_checkpoint(exported), "cpu")[0] == "torch"
    monkeypatch.setitem(sys.modules, "torch", None)
    assert resolve_backend(read_checkpoint(exported), "cpu")[0] == "onnx"
    assert load_backend(read_checkpoint(exported), "cpu").name == "onnx"
    with pytest.raises(CheckpointError, match="torch is not installed"):
        resolve_backend(read_checkpoint(checkpoint), "cpu")


@pytest.mark.parametrize(("constant", "value", "code", "message"), [
    ("MIN_PIXEL_AGREEMENT", 1.1, 1, "random.onnx is not written: "),
    ("MAX_BYTES", 1000, 2, "the weights exceed 2 GB"),
])  # fmt: skip
def test_unusable_export_is_not_written(
    exported_copy: Path,
    converted_once: None,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    constant: str,
    value: float,
    code: int,
    message: str,
) -> None:
    onnx_path(exported_copy).unlink()
    monkeypatch.setattr(f"training.export.onnx.{constant}", value)
    actual, _, error = cli("export", exported_copy, "--onnx")
    assert actual == code and message in error and error.count("\n") == 1
    assert [file.name for file in exported_copy.parent.iterdir()] == ["random.safetensors"]


@pytest.mark.parametrize(("flags", "message"), [
    (("--fp32", "--with-preprocess"), "--with-preprocess: only valid with --onnx"),
    (("--onnx", "--license", "x"), "--license: only valid with --to"),
    (("--onnx", "--out", "model.safetensors"), "expected a file name that ends with .onnx"),
])  # fmt: skip
def test_invalid_flags_are_rejected(checkpoint: Path, cli: Cli, flags: tuple[str, ...], message: str) -> None:
    code, _, error = cli("export", checkpoint, *flags)
    assert code == 2 and message in error and error.count("\n") == 1


def test_device_selects_provider() -> None:
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert select_provider("auto", providers) == ("cpu", ("CPUExecutionProvider", {}))
    device, (name, options) = select_provider("cuda:1", providers)
    assert (device, name, options["device_id"]) == ("cuda:1", "CUDAExecutionProvider", "1")
    assert select_provider("cuda", providers)[0] == "cuda:0"


@pytest.mark.parametrize(("device", "message"), [
    ("cuda", "pip install onnxruntime-gpu"),
    ("cuda:x", "expected auto, cpu, cuda or cuda:N"),
    ("tpu", "expected auto, cpu, cuda or cuda:N"),
])  # fmt: skip
def test_unusable_device_is_rejected(device: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        select_provider(device, ["CPUExecutionProvider"])


def test_service_with_onnx_file_imports_neither_torch_nor_openvino(exported: Path, tmp_path: Path) -> None:
    program = f"""
import sys, time, cv2, numpy as np
from pathlib import Path
from fastapi.testclient import TestClient
from service.app import create_app
from service.settings import load_settings
paths = {{"checkpoints": [Path({str(exported)!r})], "state": Path({str(tmp_path)!r})}}
settings = load_settings(**paths, backend="onnx", allowed_hosts="*")
with TestClient(create_app(settings)) as client:
    while client.get("/readyz").status_code != 200:
        time.sleep(0.01)
    response = client.post("/segment", content=cv2.imencode(".png", np.zeros((90, 120, 3), np.uint8))[1].tobytes())
    print(response.status_code, response.headers["segment-backend"], "torch" in sys.modules, "openvino" in sys.modules)
"""
    completed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert completed.stdout.split() == ["200", "onnx", "False", "False"], completed.stderr
