"""What the documents say is what the code does: settings, codes, and every command of the README."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import yaml

from core.checkpoints.checkpoint import read_checkpoint, shipped
from core.models import MODELS
from service.api.problems import CODES
from service.app import create_app
from service.metrics import Telemetry
from service.settings import PREFIX, Settings, load_settings
from training.commands.synthesize import write_scene

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()
API = (ROOT / "docs" / "api.md").read_text()


def table(title: str) -> list[list[str]]:
    """Cells of the first table below a heading of docs/api.md."""
    section = API.split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = [line.strip().strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`") for cell in row] for row in rows]


def test_metrics_stand_in_the_table() -> None:
    told = {name.removesuffix("_total") for row in table("Load") for name in re.findall(r"segment_[a-z_]+", row[0])}
    assert told == {metric.name for metric in Telemetry().registry.collect() if metric.name.startswith("segment_")}


def test_codes_and_statuses_stand_in_the_table() -> None:
    assert {code: int(status) for code, status, _ in table("Errors")} == CODES


def test_settings_and_defaults_stand_in_the_table() -> None:
    def shown(value: object) -> str:
        return ":".join(map(str, value)) if isinstance(value, list | tuple) else "" if value is None else str(value)

    fields = Settings.model_fields
    assert table("Settings") == [[PREFIX + k.upper(), shown(f.default), f.description] for k, f in fields.items()]


def test_every_endpoint_stands_in_the_document(checkpoint: Path, tmp_path: Path) -> None:
    app = create_app(load_settings(checkpoints=[checkpoint], state=tmp_path))
    for path in app.openapi()["paths"]:
        assert path.replace("{job_id}", "ID").replace("{name}", "NAME") in API


def commands() -> list[str]:
    """Every line of the README's bash blocks, continuation lines joined, comments cut."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines) if line]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data that the README speaks of, tiny."""
    folder = tmp_path_factory.mktemp("desk")
    for split, count in (("train", 4), ("val", 2)):
        for index in range(count):
            write_scene(folder / "datasets" / "cityscapes", split, index, (64, 128), seed=0)
    photo = next((folder / "datasets").rglob("*_leftImg8bit.png"))
    from PIL import Image

    Image.open(photo).save(folder / "street.jpg")
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "street.jpg", folder / "docs")
    (folder / "drive").mkdir()
    shutil.copy(folder / "street.jpg", folder / "drive")
    writer = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (128, 64))
    writer.write(cv2.imread(str(photo)))
    writer.release()
    return folder


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """Small training runs, this interpreter as `python`, this project importable."""
    small = {"EPOCHS": "1", "WIDTH": "2", "SIZE": "32 64", "BATCH_SIZE": "2", "WORKERS": "0"}
    stand_in = "" if shutil.which("curl") else f"{Path(__file__).with_name('bin')}:"
    paths = {"PATH": f"{stand_in}{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return {**os.environ, **paths, **{f"TRAIN_{key}": value for key, value in small.items()}}


@pytest.fixture(scope="module")
def service(desk: Path, environment: dict[str, str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.terminate()
        process.wait()


def start_service(command: str, desk: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    assignments, words = {}, shlex.split(command)
    while "=" in words[0]:
        key, _, value = words.pop(0).partition("=")
        assignments[key] = value
    process = subprocess.Popen(words, cwd=desk, env={**environment, **assignments})
    for _ in range(600):
        try:
            urllib.request.urlopen("http://127.0.0.1:8000/readyz", timeout=5).close()
            return process
        except (urllib.error.URLError, ConnectionError):
            assert process.poll() is None, command
            time.sleep(0.1)
    raise AssertionError("not ready")


def test_every_command_of_the_readme_runs(desk: Path, environment: dict[str, str], service: list) -> None:
    with socket.socket() as probe:  # the README's port: a stranger there would answer in the service's place
        assert probe.connect_ex(("127.0.0.1", 8000)) != 0, "port 8000 is taken; stop what listens there"
    ran = 0
    for command in commands():
        if command.startswith(("docker ", "make", "git ")):
            continue
        if command.endswith("python -m service"):
            for process in service:
                process.terminate()
                process.wait()
            service[:] = [start_service(command, desk, environment)]
        else:
            done = subprocess.run(command, shell=True, cwd=desk, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        ran += 1
    assert ran >= 8


@pytest.mark.parametrize("name", shipped())
def test_the_results_are_those_of_the_cards(name: str) -> None:
    scores = read_checkpoint(shipped()[name]).card.scores
    section = README.split("\n## Results")[1].split("\n## ")[0]
    (row,) = (line for line in section.splitlines() if line.startswith(f"| `{name}` |"))
    assert all(f"{scores[key]:.3f}" in row for key in ("macro_iou_labelled", "pixel_accuracy"))


@pytest.mark.parametrize("name", shipped())
def test_the_recipe_has_every_leg_of_the_cards(name: str) -> None:
    rows = [line for line in (ROOT / "docs" / "recipe.md").read_text().splitlines() if line.startswith(f"| `{name}`")]
    for leg in read_checkpoint(shipped()[name]).card.legs:
        command = leg.command.replace("--data camvid", "--data datasets/camvid")
        assert any(f"`{command}`" in row and f"| {leg.hours:.2f} |" in row for row in rows), (command, leg.hours)


def test_every_make_target_of_the_readme_is_there() -> None:
    targets = {word for line in commands() if line.startswith("make ") for word in line.split()[1:]}
    assert {"demo", "test"} <= targets
    for target in targets:
        assert subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_docker_commands_of_the_readme_name_services_files_and_flags() -> None:
    from training.config import TrainConfig

    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    lines = [shlex.split(line) for line in commands() if line.startswith("docker compose")]
    assert lines
    for words in lines:
        files = [words[n + 1] for n, word in enumerate(words) if word == "-f"]
        assert all((ROOT / name).is_file() for name in files)
        verb = next(n for n, word in enumerate(words) if word in ("run", "up"))
        assert words[verb + 1] in services
        flags = [word[2:].replace("-", "_") for word in words[verb + 2 :] if word.startswith("--")]
        assert set(flags) <= set(TrainConfig.model_fields)


def test_the_readme_names_every_model_and_dependency() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    names = [re.split(r"[><=\[]", spec)[0] for spec in (*project["dependencies"], *extras["train"], *extras["serve"])]
    assert [name for name in (*names, *MODELS) if name not in README.lower()] == []
