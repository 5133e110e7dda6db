"""Tests of the architecture rules: direction of imports, modules that may import torch, and the effort to add a model."""

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
from core.models.blocks import ConvBNReLU, SegmentationModel
from service.app import create_app
from service.settings import load_settings
from tests.support.cli import Cli
from tests.support.live_server import wait_until_ready
from tests.support.paths import ROOT

PACKAGES = ("core", "training", "service")
FILES = {p.relative_to(ROOT).as_posix(): p for package in PACKAGES for p in (ROOT / package).rglob("*.py")}
TORCH_BACKENDS = {f"core/backends/{name}.py" for name in ("torch_cpu", "torch_cuda", "torch_weights", "fp16")}


def imported_packages(path: Path) -> set[str]:
    """Return the top-level packages that a file imports, also those that it imports inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize(("package", "forbidden"), [
    ("core", {"training", "service", "fastapi", "starlette", "uvicorn", "argparse", "tests"}),
    ("training", {"service", "fastapi", "starlette", "uvicorn", "tests"}),
    ("service", {"training", "torch", "torchvision", "tests"}),
])  # fmt: skip
def test_imports_go_one_way(package: str, forbidden: set[str]) -> None:
    violations = {name: imported_packages(path) & forbidden for name, path in FILES.items() if name.startswith(f"{package}/")}
    assert {name: packages for name, packages in violations.items() if packages} == {}


def module_imports(path: Path) -> set[str]:
    """Return the project's modules that a file imports at its top level, by their paths relative to the root."""
    modules: set[str] = set()
    for node in ast.parse(path.read_text()).body:  # Imports inside functions run later, so they can't make a cycle.
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            stem = name.replace(".", "/")
            modules |= {file for file in (f"{stem}.py", f"{stem}/__init__.py") if file in FILES}
    return modules


def test_imports_have_no_cycle() -> None:
    graph = {name: module_imports(path) - {name} for name, path in FILES.items()}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the files


def test_core_imports_torch_only_in_models_and_torch_backends() -> None:
    with_torch = {n for n, p in FILES.items() if n.startswith("core/") and imported_packages(p) & {"torch", "torchvision"}}
    assert {n for n in with_torch if not n.startswith("core/models/")} == TORCH_BACKENDS


def test_service_starts_without_importing_torch() -> None:
    program = "import sys, service.app, service.settings, core.inference.segmenter; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_modules_have_docstring_and_specific_name() -> None:
    for name, path in FILES.items():
        assert ast.get_docstring(ast.parse(path.read_text())), name
        assert path.stem not in ("utils", "util", "helpers", "misc", "common")


def test_top_level_directories_are_as_designed() -> None:
    ignored = {line.strip("/\n *") for line in (ROOT / ".gitignore").read_text().splitlines()}
    directories = {p.name for p in ROOT.iterdir() if p.is_dir() and p.name != ".git" and not p.name.endswith(".egg-info")}
    assert {name for name in directories if not name.startswith(".venv")} - ignored == {
        "core", "training", "service", "tests", "docs", ".ci",
    }  # fmt: skip


class ToyNet(SegmentationModel):
    """Stand in for a new architecture: what a new file in core/models would contain."""

    stride = 2

    def __init__(self, num_classes: int = 19, base_channels: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvBNReLU(3, base_channels), nn.AvgPool2d(2), ConvBNReLU(base_channels, base_channels), nn.Upsample(scale_factor=2)
        )
        self.head = nn.Conv2d(base_channels, num_classes, 1)

    def forward_padded(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(x))
        return logits


def test_registered_architecture_can_be_trained_evaluated_and_served(
    scenes: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "toy", ToyNet)  # the only change outside the new file
    flags = ("--width", 4, "--size", 32, 64, "--batch-size", 2, "--workers", 0, "--epochs", 1, "--run", tmp_path / "toy")
    assert cli("train", "--model", "toy", "--data", scenes, *flags)[0] == 0
    code, out, _ = cli("evaluate", tmp_path / "toy", "--data", scenes)
    assert code == 0 and "toy (toy, torch)" in out
    settings = load_settings(checkpoints=[tmp_path / "toy"], state=tmp_path / "state", allowed_hosts="testserver")
    with TestClient(create_app(settings)) as client:
        wait_until_ready(client)
        image = next(scenes.glob("leftImg8bit/val/*/*.png")).read_bytes()
        response = client.post("/segment", content=image)
    assert response.status_code == 200 and response.headers["segment-model"] == "toy"
