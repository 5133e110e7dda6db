"""Networks exported for OpenVINO: as good as their checkpoint, chosen by themselves, refused where they do not belong."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.backends import choose_backend
from core.checkpoints.checkpoint import read_checkpoint
from core.checkpoints.exported import beside, read_artefact
from core.data.datasets import open_dataset
from core.errors import CheckpointError, InputError
from core.inference.segmenter import Segmenter
from tests.conftest import Cli, make_checkpoint
from training.__main__ import main

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def made(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with both artefacts beside it."""
    path = make_checkpoint(tmp_path_factory.mktemp("made") / "random.safetensors")
    assert main(["export", str(path), "--fp32"]) == 0
    assert main(["export", str(path), "--int8", "--data", str(scenes)]) == 0
    return path


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """The same, to be spoilt."""
    shutil.copytree(made.parent, tmp_path / "copied")
    return tmp_path / "copied" / made.name


@pytest.mark.parametrize("name", ["unet", "r2unet", "ddunet"])
def test_fp32_gives_the_labels_of_torch(tmp_path: Path, scenes: Path, cli: Cli, name: str) -> None:
    path = make_checkpoint(tmp_path / f"{name}.safetensors", name)
    assert cli("export", path, "--fp32")[0] == 0
    torch, openvino = (Segmenter(path, backend=backend) for backend in ("torch", "openvino-fp32"))
    same = np.mean([(torch(rgb).labels == openvino(rgb).labels).mean() for rgb, _ in open_dataset(scenes, "val")])
    assert same >= 0.9999


@pytest.mark.parametrize("backend", ["openvino-fp32", "openvino-int8"])
def test_logits_have_the_same_bits_in_any_batch(made: Path, photo: np.ndarray, backend: str) -> None:
    segmenter = Segmenter(made, backend=backend)
    x = segmenter.prepare(photo)
    alone, first, second = segmenter.forward(x[None])[0], *segmenter.forward(np.stack([x, x[:, ::-1].copy()]))
    assert np.array_equal(alone, first) and not np.array_equal(alone, second)


def test_every_single_bit_flip_is_noticed(made: Path, tmp_path: Path) -> None:
    shutil.copytree(beside(made, "int8"), tmp_path / "m.int8")
    digest, rng, noticed = read_checkpoint(made).digest, np.random.default_rng(0), 0
    for path in sorted((tmp_path / "m.int8").iterdir()):
        data = path.read_bytes()
        for place in rng.integers(0, len(data), 134):
            damaged = bytearray(data)
            damaged[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=r"m\.int8"):
                read_artefact(tmp_path / "m.int8", digest)
            noticed += 1
        path.write_bytes(data)
    assert noticed >= 400
    assert read_artefact(tmp_path / "m.int8", digest).card.precision == "int8"


@pytest.mark.parametrize("size", [(1, 1), (7, 65), (64, 64)])
def test_sizes_that_are_no_multiples_of_the_stride_are_padded_as_in_torch(made: Path, size: tuple[int, int]) -> None:
    batch = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    torch, openvino = (Segmenter(made, backend=backend).forward(batch)[0] for backend in ("torch", "openvino-fp32"))
    assert openvino.shape == (19, *size)
    assert np.allclose(torch, openvino, atol=1e-3)


def test_the_artefact_is_chosen_on_a_cpu_and_every_report_names_it(made: Path, scenes: Path, tmp_path: Path, cli: Cli) -> None:
    reports = {}
    for backend in ("auto", "torch", "openvino-fp32"):
        out = tmp_path / f"{backend}.json"
        assert cli("evaluate", made, "--data", scenes, "--device", "cpu", "--backend", backend, "--json", out)[0] == 0
        reports[backend] = json.loads(out.read_text())["checkpoint"]
    card = json.loads((made.parent / "random.int8" / "card.json").read_text())
    assert (reports["auto"]["backend"], reports["auto"]["digest"]) == ("openvino-int8", card["digest"])
    assert (reports["torch"]["backend"], reports["torch"]["digest"]) == ("torch", card["source"])
    assert len({report["digest"] for report in reports.values()}) == 3


def test_the_card_tells_data_scores_and_what_made_it(made: Path, scenes: Path) -> None:
    card = json.loads((made.parent / "random.int8" / "card.json").read_text())
    assert card["calibration"] == f"{scenes.name} train, 6 of 6 images"
    assert card["scored_on"] == f"{scenes.name} val, 5 images"
    assert card["source_scores"]["macro_iou_labelled"] - card["scores"]["macro_iou_labelled"] <= 0.005
    assert 0.9 < card["same_pixels"] <= 1
    assert set(card["made_with"]) == {"openvino", "nncf", "torch"}
    assert card["kept"] == []


def test_an_artefact_of_another_checkpoint_is_not_used(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_checkpoint(copied, seed=1)
    with caplog.at_level(logging.WARNING):
        assert Segmenter(copied).backend.name == "torch"
    assert "made from another checkpoint" in caplog.text
    with pytest.raises(CheckpointError, match="made from another checkpoint"):
        Segmenter(copied, backend="openvino-int8")


@pytest.mark.parametrize(("file", "spoil", "told"), [
    ("model.bin", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "model.bin: damaged"),
    ("model.xml", lambda data: data + b" ", "model.xml: damaged"),
    ("card.json", lambda data: data.replace(b"train, 6", b"train, 7"), "card.json: damaged"),
    ("card.json", lambda data: b"{}", "not the card of an artefact"),
    ("card.json", lambda data: b"[1", "not the card of an artefact"),
    ("model.bin", None, "model.bin: can't be read"),
    ("card.json", None, "card.json: can't be read"),
])  # fmt: skip
def test_a_damaged_artefact_is_told_and_not_used(copied: Path, file: str, spoil, told: str) -> None:
    path = copied.with_name("random.int8") / file
    if spoil:
        path.write_bytes(spoil(path.read_bytes()))
    else:
        path.unlink()
    with pytest.raises(CheckpointError, match=told):
        Segmenter(copied, backend="openvino-int8")
    assert choose_backend(read_checkpoint(copied), "cpu")[0] == "openvino-fp32"  # the next best


def test_an_artefact_that_is_not_there_says_how_to_make_it(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="no such artefact; make it: python -m training export CHECKPOINT --int8 --data"):
        Segmenter(checkpoint, backend="openvino-int8")


def test_openvino_refuses_a_gpu(made: Path) -> None:
    with pytest.raises(InputError, match="openvino-int8 runs on a CPU, not on 'cuda'"):
        Segmenter(made, device="cuda", backend="openvino-int8")


def test_int8_that_loses_too_much_is_not_written(
    tmp_path: Path, scenes: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_checkpoint(tmp_path / "random.safetensors")
    monkeypatch.setattr("training.export.openvino.LOSS_AT_MOST", -0.9)
    code, _, error = cli("export", path, "--int8", "--data", scenes)
    assert code == 1 and "int8 is not written" in error
    assert [file.name for file in tmp_path.iterdir()] == ["random.safetensors"]


@pytest.mark.parametrize(("flags", "told"), [
    (("--int8",), "--int8: needs --data"),
    (("--int8", "--data", "nowhere"), "nowhere"),
    (("--fp32", "--out", "x"), "--out: for --to only"),
    (("--fp32", "--licence", "x"), "--licence: for --to only"),
])  # fmt: skip
def test_wrong_flags_are_told(checkpoint: Path, cli: Cli, flags: tuple[str, ...], told: str) -> None:
    code, _, error = cli("export", checkpoint, *flags)
    assert code == 2 and told in error and error.count("\n") == 1


def test_a_service_that_answers_from_an_artefact_never_imports_torch(made: Path, tmp_path: Path, photo: np.ndarray) -> None:
    program = f"""
import sys, time, cv2, numpy as np
from pathlib import Path
from fastapi.testclient import TestClient
from service.app import create_app
from service.settings import load_settings
settings = load_settings(checkpoints=[Path({str(made)!r})], state=Path({str(tmp_path)!r}), device="cpu", allowed_hosts="*")
with TestClient(create_app(settings)) as client:
    while client.get("/readyz").status_code != 200:
        time.sleep(0.01)
    reply = client.post("/segment", content=cv2.imencode(".png", np.zeros((90, 120, 3), np.uint8))[1].tobytes())
    print(reply.status_code, reply.headers["segment-backend"], "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["200", "openvino-int8", "False"], done.stderr


@pytest.mark.parametrize("command", [
    "from training.__main__ import main; main(['export', CHECKPOINT, '--int8', '--data', DATA])",
    "from core.inference.segmenter import Segmenter; Segmenter(CHECKPOINT, 'cpu')",
])  # fmt: skip
def test_the_packages_do_not_tell_their_makers_of_their_use(made: Path, scenes: Path, tmp_path: Path, command: str) -> None:
    shutil.copytree(made.parent, tmp_path / "made")
    program = f"""
import sys
CHECKPOINT, DATA = {str(tmp_path / "made" / made.name)!r}, {str(scenes)!r}
{command}
import openvino.tools.ovc
print("telemetry", sys.modules["openvino_telemetry"])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.rstrip().endswith("telemetry None"), done.stdout + done.stderr


@pytest.fixture
def trained(scenes: Path, tmp_path: Path, cli: Cli) -> Path:
    """A run of one epoch, with the artefact of its best checkpoint."""
    flags = ("--width", 2, "--size", 32, 64, "--batch-size", 2, "--epochs", 1, "--export", "fp32")
    assert cli("train", "--model", "ddunet", "--data", scenes, "--run", tmp_path / "r", *flags)[0] == 0
    return tmp_path / "r"


def test_a_run_brings_the_artefact_of_its_best_checkpoint_up_to_date(trained: Path, cli: Cli) -> None:
    best = trained / "checkpoints" / "best.safetensors"
    assert read_artefact(beside(best, "fp32"), read_checkpoint(best).digest).card.precision == "fp32"
    shutil.rmtree(beside(best, "fp32"))  # killed between the two
    assert cli("train", "--run", trained, "--resume", "--epochs", 2)[0] == 0
    assert read_artefact(beside(best, "fp32"), read_checkpoint(best).digest)


def test_a_run_that_has_its_epochs_can_still_be_asked_for_the_artefact(trained: Path, cli: Cli) -> None:
    best = trained / "checkpoints" / "best.safetensors"
    shutil.rmtree(beside(best, "fp32"))
    assert cli("train", "--run", trained, "--resume", "--export", "fp32")[0] == 0
    assert read_artefact(beside(best, "fp32"), read_checkpoint(best).digest)


def test_a_best_checkpoint_that_is_damaged_is_no_end_of_a_run_that_exports(trained: Path, cli: Cli) -> None:
    best = trained / "checkpoints" / "best.safetensors"
    best.write_bytes(best.read_bytes()[:-1])
    code, out, _ = cli("train", "--run", trained, "--resume")
    assert code == 0 and f"warning: {best}: not exported for OpenVINO" in out


@pytest.mark.parametrize("command", [
    "from core import Segmenter; Segmenter(sys.argv[1])",
    "from core import backends, checkpoint; backends.choose_backend(checkpoint.read_checkpoint(checkpoint.Path(sys.argv[1])))",
])  # fmt: skip
def test_without_torch_a_checkpoint_that_has_no_artefact_says_what_would_work(checkpoint: Path, command: str) -> None:
    program = f"import sys; sys.modules['torch'] = None; {command}"
    done = subprocess.run([sys.executable, "-c", program, checkpoint], cwd=ROOT, capture_output=True, text=True, check=False)
    assert f"CheckpointError: {checkpoint}: there is no artefact beside it" in done.stderr
    assert f"python -m training export {checkpoint} --fp32" in done.stderr
