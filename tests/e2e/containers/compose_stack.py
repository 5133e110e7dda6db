"""The project's images and its docker-compose.yml, as a user runs them, in a copy of the project."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.containers.docker_engine import DockerEngine
from tests.e2e.containers.package_index import pip_conf
from tests.support.commands import Completed
from tests.support.paths import ROOT
from training.synthetic.dataset import write_scene

PROJECT = "segmentation-tests"  # its own volumes and images, so that no run of a user is touched
COMPOSE_FILES = ("docker-compose.yml", "docker-compose.cpu.yml", "docker-compose.tests.yml")
IMAGE_NAMES_OVERRIDE = f"""services:
  train: {{image: {PROJECT}-train}}
  tensorboard: {{image: {PROJECT}-train}}
  serve: {{image: {PROJECT}-serve-cpu}}
"""
IMAGES = {  # image -> suffix of its Dockerfile and build flags
    f"{PROJECT}-train": ("train",),
    f"{PROJECT}-serve-cpu": ("serve", "--build-arg", "BACKEND=cpu"),
    f"{PROJECT}-serve": ("serve", "--build-arg", "BACKEND=cuda"),
}


@dataclass
class ComposeStack:
    """The images, and the commands of the compose file on a computer without a GPU.

    Attributes:
        project_dir: copy of the project with a small data set in datasets/cityscapes.
        build_logs: log of each build by image; "IMAGE rebuild" is the log after a change of the code.
    """

    engine: DockerEngine
    project_dir: Path
    build_logs: dict[str, str] = field(default_factory=dict)

    def compose(self, *arguments: object, check: bool = True, timeout: float = 600) -> Completed:
        """Run `docker compose ARGUMENTS`."""
        files = [argument for name in COMPOSE_FILES for argument in ("-f", self.project_dir / name)]
        return self.engine.docker("compose", "-p", PROJECT, *files, *arguments, check=check, timeout=timeout)

    def train(self, *flags: object, timeout: float = 600, check: bool = True) -> Completed:
        """Run `docker compose run train FLAGS`."""
        return self.compose("run", "--rm", "-T", "train", *flags, timeout=timeout, check=check)

    def run_in_train_image(self, *command: object) -> str:
        """Run a command in a container with the volume of runs and return its standard output."""
        return self.compose("run", "--rm", "-T", "--entrypoint", command[0], "train", *command[1:]).stdout

    def exec(self, service: str, *command: object) -> Completed:
        """Run a command in the running container of a service."""
        return self.compose("exec", "-T", service, *command, check=False)


def copy_project(project_dir: Path) -> None:
    """Copy what the images are built from, with a small data set."""
    for name in ("core", "training", "service"):
        shutil.copytree(ROOT / name, project_dir / name, ignore=shutil.ignore_patterns("__pycache__"))
    for pattern in (".dockerignore", "Dockerfile.*", "docker-compose*", "requirements-*"):
        for path in ROOT.glob(pattern):
            shutil.copy(path, project_dir)
    (project_dir / "docker-compose.tests.yml").write_text(IMAGE_NAMES_OVERRIDE)
    for split, count in (("train", 24), ("val", 8)):
        for index in range(count):
            write_scene(project_dir / "datasets" / "cityscapes", split, index, (64, 128), seed=0)


def build_images(stack: ComposeStack) -> None:
    """Build all images twice, with a change of the code in between, and keep the logs."""
    with pip_conf(stack.engine.work_dir / "pip.conf"), stack.engine.building():
        for image, (kind, *flags) in IMAGES.items():
            began = time.monotonic()
            stack.build_logs[image] = stack.engine.build(stack.project_dir, kind, image, *flags)
            size = int(stack.engine.docker("image", "inspect", "-f", "{{.Size}}", image).stdout) / 1e6
            print(f"{image}: {size:.0f} MB, built in {time.monotonic() - began:.0f} s", flush=True)
        edited = stack.project_dir / "core" / "__init__.py"
        edited.write_text(edited.read_text() + "\n# a change of the code\n")
        for image, (kind, *flags) in IMAGES.items():
            stack.build_logs[f"{image} rebuild"] = stack.engine.build(stack.project_dir, kind, image, *flags)
