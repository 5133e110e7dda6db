"""The design's rules: which way imports go, what imports torch, and that a fourth architecture is a file and a line."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from torch import Tensor, nn

from core.models import MODELS
from core.models.blocks import ConvUnit, Network
from service.app import create_app
from service.settings import load_settings
from tests.integration.service.conftest import wait_until_ready

ROOT = Path(__file__).parents[2]
FILES = {p.relative_to(ROOT).as_posix(): p for room in ("core", "training", "service") for p in (ROOT / room).rglob("*.py")}
NEEDS_TORCH = {f"core/backends/{name}.py" for name in ("torch_cpu", "torch_cuda", "fp16", "streams")}


def imports(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize(("room", "never"), [
    ("core", {"training", "service", "fastapi", "starlette", "uvicorn", "argparse", "tests"}),
    ("training", {"service", "fastapi", "starlette", "uvicorn", "tests"}),
    ("service", {"training", "torch", "torchvision", "tests"}),
])  # fmt: skip
def test_imports_go_one_way(room: str, never: set[str]) -> None:
    wrong = {name: imports(path) & never for name, path in FILES.items() if name.startswith(f"{room}/")}
    assert {name: found for name, found in wrong.items() if found} == {}


def module_imports(path: Path) -> set[str]:
    """Return the project's modules that a file imports at its top level, by their paths relative to the root."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:  # imports inside functions run later, and can't make a cycle
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            stem = name.replace(".", "/")
            found |= {file for file in (f"{stem}.py", f"{stem}/__init__.py") if file in FILES}
    return found


def test_no_file_imports_itself_through_others() -> None:
    graph = {name: module_imports(path) - {name} for name, path in FILES.items()}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError with the files in question


def test_only_the_models_and_the_torch_back_end_import_torch_in_core() -> None:
    with_torch = {n for n, p in FILES.items() if n.startswith("core/") and imports(p) & {"torch", "torchvision"}}
    assert {n for n in with_torch if not n.startswith("core/models/")} == NEEDS_TORCH


def test_putting_a_service_together_does_not_import_torch() -> None:
    program = "import sys, service.app, service.settings, core.inference.segmenter; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_every_file_says_its_purpose_and_none_is_called_utils() -> None:
    for name, path in FILES.items():
        assert ast.get_docstring(ast.parse(path.read_text())), name
        assert path.stem not in ("utils", "util", "helpers", "misc", "common")


def test_top_level_folders_are_the_card_s() -> None:
    ignored = {line.strip("/\n *") for line in (ROOT / ".gitignore").read_text().splitlines()}
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and p.name != ".git" and not p.name.endswith(".egg-info")}
    assert {name for name in folders if not name.startswith(".venv")} - ignored == {
        "core", "training", "service", "tests", "docs", ".ci",
    }  # fmt: skip


class Toy(Network):
    """A fourth architecture: what a new file in core/models would hold."""

    stride = 2

    def __init__(self, num_classes: int = 19, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(ConvUnit(3, width), nn.AvgPool2d(2), ConvUnit(width, width), nn.Upsample(scale_factor=2))
        self.head = nn.Conv2d(width, num_classes, 1)

    def segment(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(x))
        return logits


def test_a_fourth_architecture_goes_through_train_evaluate_and_service(
    scenes: Path, tmp_path: Path, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "toy", Toy)  # the one line
    flags = ("--width", 4, "--size", 32, 64, "--batch-size", 2, "--workers", 0, "--epochs", 1, "--run", tmp_path / "toy")
    assert cli("train", "--model", "toy", "--data", scenes, *flags)[0] == 0
    code, out, _ = cli("evaluate", tmp_path / "toy", "--data", scenes)
    assert code == 0 and "toy (toy, torch)" in out
    settings = load_settings(checkpoints=[tmp_path / "toy"], state=tmp_path / "state", allowed_hosts="testserver")
    with TestClient(create_app(settings)) as client:
        wait_until_ready(client)
        photo = next(scenes.glob("leftImg8bit/val/*/*.png")).read_bytes()
        reply = client.post("/segment", content=photo)
    assert reply.status_code == 200 and reply.headers["segment-model"] == "toy"
