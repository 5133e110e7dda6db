"""A Docker Engine for the tests: the one of this computer if it answers, otherwise a private one in its own directory.

The private engine is that of Debian's package docker.io. It runs twice on the same images: first without a bridge, so
that builds use the network of this computer and leave its configuration alone; then in a network namespace, where bridge,
published ports and service names are real.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.commands import Completed, run

CLONE_NEWNET = 0x40000000  # from <sched.h>
NAMESPACE = f"segmentation-{os.getpid()}"
BASE_IMAGE = "segmentation-tests/base"
COMPOSE_PLUGIN = Path(sys.executable).with_name("docker-compose")


class DockerEngine:
    """The engine of this computer.

    Args:
        work_dir: directory for the configuration of the client.

    Attributes:
        base_image: value of the Dockerfiles' BASE_IMAGE; if empty, their default, which comes from a registry.
    """

    def __init__(self, work_dir: Path) -> None:
        self.work_dir = work_dir
        self.environment = {**os.environ, "DOCKER_BUILDKIT": "1", "DOCKER_CONFIG": str(work_dir / "cli")}
        self.client = "docker"
        self.base_image = ""
        (work_dir / "cli" / "cli-plugins").mkdir(parents=True)
        (work_dir / "cli" / "cli-plugins" / "docker-compose").symlink_to(COMPOSE_PLUGIN)

    def docker(self, *arguments: object, check: bool = True, timeout: float = 600) -> Completed:
        """Run `docker ARGUMENTS`."""
        return run(self.client, *arguments, check=check, timeout=timeout, env=self.environment)

    def build(self, project_dir: Path, kind: str, tag: str, *flags: object) -> str:
        """Build Dockerfile.KIND and return the log of BuildKit."""
        base = ("--build-arg", f"BASE_IMAGE={self.base_image}") if self.base_image else ()
        secret = ("--secret", f"id=pip,src={self.work_dir / 'pip.conf'}")
        options = ("--progress=plain", "--network", "host", *base, *secret, *flags)
        target = ("--file", project_dir / f"Dockerfile.{kind}", "--tag", tag, project_dir)
        return self.docker("build", *options, *target, timeout=1500).stderr

    @contextmanager
    def building(self) -> Iterator[None]:
        """Be ready to build images."""
        yield

    @contextmanager
    def running(self) -> Iterator[None]:
        """Be ready to run containers; this thread and its child processes reach their published ports."""
        yield


class PrivateDockerEngine(DockerEngine):
    """An engine that the tests start, with all its files in `work_dir`. Needs root on Debian."""

    def __init__(self, work_dir: Path) -> None:
        super().__init__(work_dir)
        self.base_image, self.client = BASE_IMAGE, "/usr/bin/docker"  # of the same package as the daemon
        self.environment["DOCKER_HOST"] = f"unix://{work_dir}/docker.sock"

    @contextmanager
    def building(self) -> Iterator[None]:
        """Run the daemon without a bridge; create the base image the first time."""
        with self._daemon("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"):
            if self.docker("image", "inspect", BASE_IMAGE, check=False).returncode:
                self.docker("import", "-c", "ENV LANG=C.UTF-8", create_base_archive(self.work_dir), BASE_IMAGE)
            yield

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the daemon and this thread in a network namespace."""
        try:
            run("ip", "netns", "add", NAMESPACE)
            run("ip", "-n", NAMESPACE, "link", "set", "lo", "up")
            enter = ("nsenter", f"--net=/run/netns/{NAMESPACE}")
            with self._daemon("--ip6tables=false", prefix=enter), network_namespace(NAMESPACE):
                yield
        finally:
            run("ip", "netns", "del", NAMESPACE, check=False)

    @contextmanager
    def _daemon(self, *flags: str, prefix: tuple[str, ...] = ()) -> Iterator[None]:
        paths = {"--data-root": "data", "--exec-root": "exec", "--pidfile": "docker.pid"}
        path_flags = [f"{flag}={self.work_dir / name}" for flag, name in paths.items()]
        log_file = self.work_dir / "dockerd.log"
        with log_file.open("a") as log:
            command = [*prefix, "dockerd", *flags, *path_flags, "-H", self.environment["DOCKER_HOST"]]
            daemon = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 60
            while self.docker("info", check=False).returncode:
                assert daemon.poll() is None and time.monotonic() < deadline, log_file.read_text()[-4000:]
                time.sleep(0.2)
            yield
            if containers := self.docker("ps", "-aq").stdout.split():
                self.docker("rm", "-f", *containers)
        finally:
            daemon.terminate()
            try:
                daemon.wait(60)
            finally:
                daemon.kill()


def create_base_archive(work_dir: Path) -> Path:
    """Archive Debian 12 with Python 3.11 and this computer's certificates, in place of python:3.11-slim-bookworm."""
    root, archive = work_dir / "root", work_dir / "base.tar"
    packages = "python3,python3-venv,python-is-python3,ca-certificates"
    run("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", root, timeout=1200)
    for certificate in Path("/usr/local/share/ca-certificates").glob("*.crt"):
        shutil.copy(certificate, root / "usr/local/share/ca-certificates")
    run("chroot", root, "/usr/sbin/update-ca-certificates", env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    for unneeded in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(root / unneeded, ignore_errors=True)
    run("tar", "--one-file-system", "-C", root, "-cf", archive, ".")
    shutil.rmtree(root)
    return archive


@contextmanager
def network_namespace(name: str) -> Iterator[None]:
    """Move this thread, and the processes that it starts, into a named network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(path: str) -> None:
        with Path(path).open("rb") as file:
            if libc.setns(file.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"{path}: {os.strerror(ctypes.get_errno())}")

    with Path("/proc/thread-self/ns/net").open("rb") as original:
        enter(f"/run/netns/{name}")
        try:
            yield
        finally:
            libc.setns(original.fileno(), CLONE_NEWNET)
