"""Fixtures that build the container images and run them with docker-compose.yml."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.e2e.containers.compose_stack import IMAGES, ComposeStack, build_images, copy_project
from tests.e2e.containers.docker_engine import DockerEngine, PrivateDockerEngine
from tests.support.commands import Completed
from tests.support.prerequisites import require_programs, require_root


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerEngine]:
    """The Docker Engine of this computer, or a private one. Without either, the tests are skipped or fail."""
    with TemporaryDirectory(prefix="segmentation-", dir="/var/tmp") as directory:  # images may be too large for /tmp
        running = DockerEngine(Path(directory, "running"))
        if shutil.which("docker") and running.docker("info", check=False).returncode == 0:
            yield running
            return
        require_root()
        packages = "docker.io debootstrap iproute2 util-linux"
        require_programs("dockerd", "debootstrap", "ip", "nsenter", packages=packages)
        yield PrivateDockerEngine(Path(directory, "private"))


@pytest.fixture(scope="session")
def built(engine: DockerEngine, tmp_path_factory: pytest.TempPathFactory) -> ComposeStack:
    """The images, built from a copy of the project."""
    stack = ComposeStack(engine, tmp_path_factory.mktemp("project") / "segmentation")
    copy_project(stack.project_dir)
    build_images(stack)
    return stack


@pytest.fixture(scope="session")
def stack(built: ComposeStack) -> Iterator[ComposeStack]:
    """The images, ready to run; containers, volumes and images are removed at the end."""
    with built.engine.running():
        yield built
        built.compose("--profile", "*", "down", "--volumes")
        built.engine.docker("image", "rm", *IMAGES)


@pytest.fixture(scope="session")
def trained(stack: ComposeStack) -> str:
    """The output of a training run of one epoch on generated scenes."""
    completed = stack.train("--model", "ddunet", "--data", "synthetic", "--epochs", 1, "--width", 8)
    return completed.stdout + completed.stderr


@pytest.fixture(scope="session")
def serving(stack: ComposeStack, trained: str) -> Iterator[Callable[..., Completed]]:
    """`docker compose up serve tensorboard`, healthy; a function that runs curl with the given arguments."""
    stack.compose("up", "-d", "--no-build", "--wait", "serve", "tensorboard")

    def curl(*arguments: object) -> Completed:
        command = ["curl", "-sS", "--fail-with-body", "--max-time", "120", *map(str, arguments)]
        return subprocess.run(command, text=True, capture_output=True, check=False, timeout=150)

    yield curl
    stack.compose("down")
