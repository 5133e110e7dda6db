"""Run every command of the README, and compare its tables with the code and the bundled checkpoints."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import cv2
import pytest
import yaml
from PIL import Image

from core.checkpoints.checkpoint import bundled_checkpoints, read_checkpoint
from core.models import MODELS
from tests.support.markdown import bash_commands, code_blocks, section, table_rows
from tests.support.paths import ROOT
from tests.support.service_process import ServiceProcess
from training.config import TrainConfig
from training.synthetic.dataset import write_scene

README = (ROOT / "README.md").read_text()
COMMANDS = bash_commands(README)


@pytest.fixture
def user_dir(tmp_path: Path) -> Path:
    """A directory with small versions of the files that the README mentions."""
    for split, count in (("train", 4), ("val", 2)):
        for index in range(count):
            write_scene(tmp_path / "datasets" / "cityscapes", split, index, (64, 128), seed=0)
    scene = next((tmp_path / "datasets").rglob("*_leftImg8bit.png"))
    Image.open(scene).save(tmp_path / "street.jpg")
    for name in ("docs", "drive"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / "docs" / "street.jpg", tmp_path / "docs")
    shutil.copy(tmp_path / "street.jpg", tmp_path / "drive")
    writer = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (128, 64))
    writer.write(cv2.imread(str(scene)))
    writer.release()
    return tmp_path


@pytest.fixture
def environment() -> dict[str, str]:
    """Short training runs, this interpreter as `python`, an importable project, and a stand-in for a missing curl."""
    small = {"EPOCHS": "1", "WIDTH": "2", "SIZE": "32 64", "BATCH_SIZE": "2", "WORKERS": "0"}
    path = [str(Path(sys.executable).parent), os.environ["PATH"]]
    if not shutil.which("curl"):
        path.insert(0, str(ROOT / "tests" / "support" / "bin"))
    training = {f"TRAIN_{key}": value for key, value in small.items()}
    return {**os.environ, **training, "PATH": ":".join(path), "PYTHONPATH": str(ROOT)}


def start_service(command: str, user_dir: Path) -> ServiceProcess:
    """Start `NAME=VALUE... python -m service` and wait until it is ready."""
    settings = dict(word.split("=", 1) for word in shlex.split(command) if "=" in word)
    service = ServiceProcess(user_dir, user_dir, **settings)
    service.wait_until_ready()
    return service


@pytest.mark.timeout(900)
def test_every_readme_command_succeeds(user_dir: Path, environment: dict[str, str]) -> None:
    service = None
    try:
        for command in COMMANDS:
            if command.startswith(("docker ", "make", "git ")):
                continue
            if command.endswith("python -m service"):
                if service:
                    service.kill()
                service = start_service(command, user_dir)
                continue
            if service:
                command = command.replace("localhost:8000", f"localhost:{service.port}")
            completed = subprocess.run(
                command, shell=True, cwd=user_dir, env=environment, capture_output=True, text=True, check=False
            )
            assert completed.returncode == 0, f"{command}\n{completed.stdout}\n{completed.stderr}"
        assert service and service.process.poll() is None
    finally:
        if service:
            service.kill()


def test_readme_python_code_runs(user_dir: Path, environment: dict[str, str]) -> None:
    code = "".join(code for language, code in code_blocks(section(README, "The first mask")) if language == "python")
    assert "segmenter([" in code
    completed = subprocess.run(
        [sys.executable, "-c", code], cwd=user_dir, env=environment, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.count("<SegmentationResult ") == 2 and (user_dir / "mask.png").is_file()


@pytest.mark.parametrize("target", sorted({word for c in COMMANDS if c.startswith("make ") for word in c.split()[1:]}))
def test_make_target_exists(target: str) -> None:
    completed = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("docker compose")])
def test_docker_command_names_existing_files_services_and_flags(command: str) -> None:
    words = shlex.split(command)
    files = [words[n + 1] for n, word in enumerate(words) if word == "-f"]
    assert all((ROOT / name).is_file() for name in files)
    verb = next(n for n, word in enumerate(words) if word in ("run", "up"))
    assert words[verb + 1] in yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    flags = {word[2:].replace("-", "_") for word in words[verb + 2 :] if word.startswith("--")}
    assert flags <= set(TrainConfig.model_fields)


@pytest.mark.parametrize("name", bundled_checkpoints())
def test_results_table_matches_bundled_checkpoint(name: str) -> None:
    scores = read_checkpoint(bundled_checkpoints()[name]).metadata.scores
    (row,) = (row for row in table_rows(section(README, "Results")) if row[0] == name)
    assert all(any(f"{scores[key]:.3f}" in cell for cell in row) for key in ("miou_present", "pixel_accuracy"))


@pytest.mark.parametrize("name", bundled_checkpoints())
def test_recipe_lists_every_training_stage_of_bundled_checkpoint(name: str) -> None:
    recipe = (ROOT / "docs" / "recipe.md").read_text()
    rows = [line for line in recipe.splitlines() if line.startswith(f"| `{name}`")]
    for stage in read_checkpoint(bundled_checkpoints()[name]).metadata.stages:
        command = stage.command.replace("--data camvid", "--data datasets/camvid")
        assert any(f"`{command}`" in row and f"| {stage.hours:.2f} |" in row for row in rows), (command, stage.hours)


def test_readme_mentions_every_model_and_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    packages = [re.split(r"[><=\[]", spec)[0] for spec in (*project["dependencies"], *extras["train"], *extras["serve"])]
    assert [name for name in (*packages, *MODELS) if name not in README.lower()] == []
