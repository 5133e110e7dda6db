"""The images, built, and containers of them, run by docker-compose.yml as a user would: asked for by `make fleet`."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.e2e.containers.engine import Engine, OwnEngine
from tests.e2e.containers.index import pip_conf
from tests.e2e.containers.run import Done, leave_out, require_asked
from training.commands.synthesize import write_scene

ROOT = Path(__file__).parents[3]
NEEDS = ("dockerd", "debootstrap", "ip", "nsenter")
FILES = ("docker-compose.yml", "docker-compose.cpu.yml", "docker-compose.tests.yml")
PROJECT = "segmentation-tests"  # volumes and images of its own: nobody's runs are touched
OWN = f"""services:
  train: {{image: {PROJECT}-train}}
  tensorboard: {{image: {PROJECT}-train}}
  serve: {{image: {PROJECT}-serve-cpu}}
"""
IMAGES = {
    f"{PROJECT}-train": ("train",),
    f"{PROJECT}-serve-cpu": ("serve", "--build-arg", "BACKEND=cpu"),
    f"{PROJECT}-serve": ("serve", "--build-arg", "BACKEND=cuda"),
}


@dataclass
class Stack:
    """The project's folder with some data in it, its images, and the compose file's commands."""

    engine: Engine
    project: Path
    told: dict[str, str] = field(default_factory=dict)  # by image: what its build said

    def compose(self, *arguments: object, check: bool = True, timeout: float = 600) -> Done:
        """`docker compose ARGUMENTS` for a machine without a GPU."""
        files = [part for name in FILES for part in ("-f", self.project / name)]
        return self.engine.docker("compose", "-p", PROJECT, *files, *arguments, check=check, timeout=timeout)

    def train(self, *flags: object, timeout: float = 600, check: bool = True) -> Done:
        """`docker compose run train FLAGS`."""
        return self.compose("run", "--rm", "-T", "train", *flags, timeout=timeout, check=check)

    def runs(self, *command: object) -> str:
        """What a command that reads the volume of runs prints."""
        return self.compose("run", "--rm", "-T", "--entrypoint", command[0], "train", *command[1:]).stdout


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """One that runs already, or one of our own. Where neither is possible the tests are left out, and say so."""
    require_asked()
    with TemporaryDirectory(prefix="segmentation-", dir="/var/tmp") as folder:  # images are too large for a disk in memory
        there = Engine(Path(folder, "there"))
        if shutil.which("docker") and there.docker("info", check=False).returncode == 0:
            yield there
            return
        missing = [name for name in NEEDS if not shutil.which(name)]
        if os.geteuid() or missing:
            why = f"root, and Debian's docker.io, debootstrap and iproute2 (missing: {', '.join(missing) or 'root'})"
            leave_out(f"no Docker Engine answers; what it takes to start one: {why}")
        yield OwnEngine(Path(folder, "own"))


@pytest.fixture(scope="session")
def built(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """The images, built from a copy of the project."""
    project = tmp_path_factory.mktemp("project") / "segmentation"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("core", "training", "service"):
        shutil.copytree(ROOT / name, project / name, ignore=ignored)
    for path in [
        ROOT / ".dockerignore",
        *ROOT.glob("Dockerfile.*"),
        *ROOT.glob("docker-compose*"),
        *ROOT.glob("requirements-*"),
    ]:
        shutil.copy(path, project)
    (project / "docker-compose.tests.yml").write_text(OWN)
    for split, count in (("train", 24), ("val", 8)):
        for index in range(count):
            write_scene(project / "datasets" / "cityscapes", split, index, (64, 128), seed=0)
    stack = Stack(engine, project)
    with pip_conf(engine.work / "pip.conf"), engine.building():
        for image, (kind, *flags) in IMAGES.items():
            began = time.monotonic()
            stack.told[image] = engine.build(project, kind, image, *flags)
            size = int(engine.docker("image", "inspect", "-f", "{{.Size}}", image).stdout) / 1e6
            print(f"{image}: {size:.0f} MB, built in {time.monotonic() - began:.0f} s", flush=True)
        edited = project / "core" / "__init__.py"
        edited.write_text(edited.read_text() + "\n# a change of code\n")
        for image, (kind, *flags) in IMAGES.items():
            stack.told[f"{image} again"] = engine.build(project, kind, image, *flags)
    return stack


@pytest.fixture(scope="session")
def stack(built: Stack) -> Iterator[Stack]:
    """The same, while containers can be run."""
    with built.engine.running():
        yield built
        built.compose("--profile", "*", "down", "--volumes")
        built.engine.docker("image", "rm", *IMAGES)


@pytest.fixture(scope="session")
def trained(stack: Stack) -> str:
    """The command that the mission is typed as, shortened; what it printed."""
    done = stack.train("--model", "ddunet", "--data", "synthetic", "--epochs", 1, "--width", 8)
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def serving(stack: Stack, trained: str) -> Iterator[Callable[..., Done]]:
    """`docker compose up serve`, healthy; `curl` with these arguments."""
    stack.compose("up", "-d", "--no-build", "--wait", "serve", "tensorboard")

    def curl(*arguments: object) -> Done:
        command = ["curl", "-sS", "--fail-with-body", "--max-time", "120", *map(str, arguments)]
        return subprocess.run(command, text=True, capture_output=True, check=False, timeout=150)

    yield curl
    stack.compose("down")
