"""Tests of models exported to OpenVINO: accuracy, automatic choice of the backend, and rejection of damaged files."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from core.backends.loader import resolve_backend
from core.checkpoints.checkpoint import read_checkpoint
from core.checkpoints.exported import export_dir, read_exported_model
from core.data.datasets import open_dataset
from core.errors import CheckpointError, InputError
from core.inference.segmenter import Segmenter
from tests.support.checkpoints import make_checkpoint
from tests.support.cli import Cli
from tests.support.paths import ROOT
from tests.support.sample_images import replace_by_noise
from training.__main__ import main
from training.evaluation import evaluate_scores


@pytest.fixture(scope="module")
def exported(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with fp32 and int8 exports next to it."""
    path = make_checkpoint(tmp_path_factory.mktemp("exported") / "random.safetensors")
    assert main(["export", str(path), "--fp32"]) == 0
    assert main(["export", str(path), "--int8", "--data", str(scenes)]) == 0
    return path


@pytest.fixture
def exported_copy(exported: Path, tmp_path: Path) -> Path:
    """A copy of `exported` that a test may change."""
    shutil.copytree(exported.parent, tmp_path / "copy")
    return tmp_path / "copy" / exported.name


@pytest.mark.parametrize("name", ["unet", "r2unet", "ddunet"])
def test_fp32_predicts_same_labels_as_torch(tmp_path: Path, scenes: Path, cli: Cli, name: str) -> None:
    path = make_checkpoint(tmp_path / f"{name}.safetensors", name)
    assert cli("export", path, "--fp32")[0] == 0
    torch, openvino = (Segmenter(path, backend=backend) for backend in ("torch", "openvino-fp32"))
    agreement = np.mean([(torch(rgb).labels == openvino(rgb).labels).mean() for rgb, _ in open_dataset(scenes, "val")])
    assert agreement >= 0.9999


@pytest.mark.parametrize("backend", ["openvino-fp32", "openvino-int8"])
def test_logits_do_not_depend_on_batch(exported: Path, rgb_image: np.ndarray, backend: str) -> None:
    segmenter = Segmenter(exported, backend=backend)
    x = segmenter.preprocess_image(rgb_image)
    single, first, second = segmenter.forward(x[None])[0], *segmenter.forward(np.stack([x, x[:, ::-1].copy()]))
    assert np.array_equal(single, first) and not np.array_equal(single, second)


def test_bit_flips_are_detected(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(export_dir(exported, "int8"), tmp_path / "m.int8")
    digest, rng = read_checkpoint(exported).digest, np.random.default_rng(0)
    paths = sorted((tmp_path / "m.int8").iterdir())
    assert len(paths) == 3
    for path in paths:
        data = path.read_bytes()
        for position in rng.integers(0, len(data), 134):
            damaged = bytearray(data)
            damaged[position] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=r"m\.int8"):
                read_exported_model(tmp_path / "m.int8", digest)
        path.write_bytes(data)
    assert read_exported_model(tmp_path / "m.int8", digest).manifest.precision == "int8"


@pytest.mark.parametrize("size", [(1, 1), (7, 65), (64, 64)])
def test_padding_to_stride_matches_torch(exported: Path, size: tuple[int, int]) -> None:
    batch = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    torch, openvino = (Segmenter(exported, backend=backend).forward(batch)[0] for backend in ("torch", "openvino-fp32"))
    assert openvino.shape == (19, *size)
    assert np.allclose(torch, openvino, atol=1e-3)


def test_auto_chooses_int8_on_cpu_and_report_names_backend(exported: Path, scenes: Path, tmp_path: Path, cli: Cli) -> None:
    reports = {}
    for backend in ("auto", "torch", "openvino-fp32"):
        out = tmp_path / f"{backend}.json"
        assert cli("evaluate", exported, "--data", scenes, "--device", "cpu", "--backend", backend, "--json", out)[0] == 0
        reports[backend] = json.loads(out.read_text())["checkpoint"]
    manifest = json.loads((exported.parent / "random.int8" / "manifest.json").read_text())
    assert (reports["auto"]["backend"], reports["auto"]["digest"]) == ("openvino-int8", manifest["digest"])
    assert (reports["torch"]["backend"], reports["torch"]["digest"]) == ("torch", manifest["checkpoint_digest"])
    assert len({report["digest"] for report in reports.values()}) == 3


def test_manifest_has_calibration_scores_and_versions(exported: Path, scenes: Path) -> None:
    manifest = json.loads((exported.parent / "random.int8" / "manifest.json").read_text())
    assert manifest["calibration"] == f"{scenes.name} train, 6 of 6 images"
    assert manifest["scored_on"] == f"{scenes.name} val, 5 images"
    assert manifest["checkpoint_scores"]["miou_present"] - manifest["scores"]["miou_present"] <= 0.005
    assert 0.9 < manifest["pixel_agreement"] <= 1
    assert set(manifest["package_versions"]) == {"openvino", "nncf", "torch"}
    assert manifest["fp32_layers"] == []


def test_export_of_other_checkpoint_is_not_used(exported_copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_checkpoint(exported_copy, seed=1)
    with caplog.at_level(logging.WARNING):
        assert Segmenter(exported_copy).backend.name == "torch"
    assert "made from another checkpoint" in caplog.text
    with pytest.raises(CheckpointError, match="made from another checkpoint"):
        Segmenter(exported_copy, backend="openvino-int8")


@pytest.mark.parametrize(("file", "damage", "message"), [
    ("model.bin", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "model.bin: damaged"),
    ("model.xml", lambda data: data + b" ", "model.xml: damaged"),
    ("manifest.json", lambda data: data.replace(b"train, 6", b"train, 7"), "manifest.json: damaged"),
    ("manifest.json", lambda data: b"{}", "not the manifest of an exported model"),
    ("manifest.json", lambda data: b"[1", "not the manifest of an exported model"),
    ("model.bin", None, "model.bin: can't be read"),
    ("manifest.json", None, "manifest.json: can't be read"),
])  # fmt: skip
def test_damaged_export_is_rejected(
    exported_copy: Path, file: str, damage: Callable[[bytes], bytes] | None, message: str
) -> None:
    path = exported_copy.with_name("random.int8") / file
    if damage:
        path.write_bytes(damage(path.read_bytes()))
    else:
        path.unlink()
    with pytest.raises(CheckpointError, match=message):
        Segmenter(exported_copy, backend="openvino-int8")
    assert resolve_backend(read_checkpoint(exported_copy), "cpu")[0] == "openvino-fp32"  # the second choice


def test_missing_export_suggests_command(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="no such exported model; run python -m training export CHECKPOINT --int8 --data"):
        Segmenter(checkpoint, backend="openvino-int8")


def test_openvino_rejects_gpu(exported: Path) -> None:
    with pytest.raises(InputError, match="openvino-int8 runs on a CPU, not on 'cuda'"):
        Segmenter(exported, device="cuda", backend="openvino-int8")


def test_int8_of_size_that_is_no_multiple_of_stride_is_exported(tmp_path: Path, scenes: Path, cli: Cli) -> None:
    path = make_checkpoint(tmp_path / "random.safetensors", size=(36, 52), resize="stretch")
    assert cli("export", path, "--int8", "--data", scenes)[0] == 0
    assert Segmenter(path, backend="openvino-int8")(open_dataset(scenes, "val")[0][0]).size == (64, 128)


def test_export_is_scored_on_reduced_jpegs(tmp_path: Path, plain_dataset: Path, cli: Cli) -> None:
    dataset = open_dataset(plain_dataset, "val")
    replace_by_noise(image for image, _ in dataset.pairs)
    path = make_checkpoint(tmp_path / "random.safetensors", labels=dataset.labels, seed=1, size=(16, 16), resize="stretch")
    assert cli("export", path, "--fp32", "--data", plain_dataset)[0] == 0
    checkpoint = read_checkpoint(path)
    exported = read_exported_model(export_dir(path, "fp32"), checkpoint.digest).manifest
    assert exported.checkpoint_scores == pytest.approx(evaluate_scores(checkpoint, dataset), abs=1e-12)


def test_inaccurate_int8_is_not_written(tmp_path: Path, scenes: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_checkpoint(tmp_path / "random.safetensors")
    monkeypatch.setattr("training.export.openvino.MAX_MIOU_DROP", -0.9)
    code, _, error = cli("export", path, "--int8", "--data", scenes)
    assert code == 1 and "int8 is not written" in error
    assert [file.name for file in tmp_path.iterdir()] == ["random.safetensors"]


@pytest.mark.parametrize(("flags", "message"), [
    (("--int8",), "--int8: needs --data"),
    (("--int8", "--data", "nowhere"), "nowhere"),
    (("--fp32", "--out", "x"), "--out: only valid with --to"),
    (("--fp32", "--license", "x"), "--license: only valid with --to"),
])  # fmt: skip
def test_invalid_flags_are_rejected(checkpoint: Path, cli: Cli, flags: tuple[str, ...], message: str) -> None:
    code, _, error = cli("export", checkpoint, *flags)
    assert code == 2 and message in error and error.count("\n") == 1


def test_service_with_exported_model_does_not_import_torch(exported: Path, tmp_path: Path, rgb_image: np.ndarray) -> None:
    program = f"""
import sys, time, cv2, numpy as np
from pathlib import Path
from fastapi.testclient import TestClient
from service.app import create_app
from service.settings import load_settings
settings = load_settings(checkpoints=[Path({str(exported)!r})], state=Path({str(tmp_path)!r}), device="cpu", allowed_hosts="*")
with TestClient(create_app(settings)) as client:
    while client.get("/readyz").status_code != 200:
        time.sleep(0.01)
    response = client.post("/segment", content=cv2.imencode(".png", np.zeros((90, 120, 3), np.uint8))[1].tobytes())
    print(response.status_code, response.headers["segment-backend"], "torch" in sys.modules)
"""
    completed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert completed.stdout.split() == ["200", "openvino-int8", "False"], completed.stderr


@pytest.mark.parametrize("command", [
    "from training.__main__ import main; main(['export', CHECKPOINT, '--int8', '--data', DATA])",
    "from core.inference.segmenter import Segmenter; Segmenter(CHECKPOINT, 'cpu')",
])  # fmt: skip
def test_openvino_telemetry_is_disabled(exported: Path, scenes: Path, tmp_path: Path, command: str) -> None:
    shutil.copytree(exported.parent, tmp_path / "exported")
    program = f"""
import sys
CHECKPOINT, DATA = {str(tmp_path / "exported" / exported.name)!r}, {str(scenes)!r}
{command}
import openvino.tools.ovc
print("telemetry", sys.modules["openvino_telemetry"])
"""
    completed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert completed.stdout.rstrip().endswith("telemetry None"), completed.stdout + completed.stderr


@pytest.fixture
def trained_run(scenes: Path, tmp_path: Path, cli: Cli) -> Path:
    """A run of one epoch with an fp32 export of its best checkpoint."""
    flags = ("--width", 2, "--size", 32, 64, "--batch-size", 2, "--epochs", 1, "--export", "fp32")
    assert cli("train", "--model", "ddunet", "--data", scenes, "--run", tmp_path / "r", *flags)[0] == 0
    return tmp_path / "r"


def test_resumed_run_exports_best_checkpoint(trained_run: Path, cli: Cli) -> None:
    best = trained_run / "checkpoints" / "best.safetensors"
    assert read_exported_model(export_dir(best, "fp32"), read_checkpoint(best).digest).manifest.precision == "fp32"
    shutil.rmtree(export_dir(best, "fp32"))  # as if the run had been killed before the export
    assert cli("train", "--run", trained_run, "--resume", "--epochs", 2)[0] == 0
    assert read_exported_model(export_dir(best, "fp32"), read_checkpoint(best).digest)


def test_finished_run_can_export_best_checkpoint(trained_run: Path, cli: Cli) -> None:
    best = trained_run / "checkpoints" / "best.safetensors"
    shutil.rmtree(export_dir(best, "fp32"))
    assert cli("train", "--run", trained_run, "--resume", "--export", "fp32")[0] == 0
    assert read_exported_model(export_dir(best, "fp32"), read_checkpoint(best).digest)


def test_damaged_best_checkpoint_gives_warning_at_export(trained_run: Path, cli: Cli) -> None:
    best = trained_run / "checkpoints" / "best.safetensors"
    best.write_bytes(best.read_bytes()[:-1])
    code, out, _ = cli("train", "--run", trained_run, "--resume")
    assert code == 0 and f"warning: {best}: not exported to OpenVINO" in out


@pytest.mark.parametrize("command", [
    "from core import Segmenter; Segmenter(sys.argv[1])",
    "from core.backends import loader; from core.checkpoints import checkpoint;"
    " loader.resolve_backend(checkpoint.read_checkpoint(checkpoint.Path(sys.argv[1])))",
])  # fmt: skip
def test_checkpoint_without_export_suggests_export_if_torch_is_missing(checkpoint: Path, command: str) -> None:
    program = f"import sys; sys.modules['torch'] = None; {command}"
    completed = subprocess.run(
        [sys.executable, "-c", program, checkpoint], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert f"CheckpointError: {checkpoint}: torch is not installed" in completed.stderr
    assert f"python -m training export {checkpoint} --fp32" in completed.stderr
