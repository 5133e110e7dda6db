"""A Docker Engine for the tests: the machine's own where one answers, else one of Debian's package in a folder of its own.

Ours runs twice on the same images: first without a bridge, so that builds share the machine's network and the machine's
own is left as it is; then in a network namespace, where bridge, published ports and the names of services are real.
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

from tests.e2e.containers.run import Done, run

CLONE_NEWNET = 0x40000000  # of <sched.h>
NAMESPACE = f"segmentation-{os.getpid()}"
BASE = "segmentation-tests/base"
PLUGIN = Path(sys.executable).with_name("docker-compose")


class Engine:
    """What the tests ask of Docker."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.environment = {**os.environ, "DOCKER_BUILDKIT": "1", "DOCKER_CONFIG": str(work / "cli")}
        self.client = "docker"
        self.base = ""  # of the images; the Dockerfiles' own where a registry can be reached
        (work / "cli" / "cli-plugins").mkdir(parents=True)
        (work / "cli" / "cli-plugins" / "docker-compose").symlink_to(PLUGIN)

    def docker(self, *arguments: object, check: bool = True, timeout: float = 600) -> Done:
        """`docker ARGUMENTS`."""
        return run(self.client, *arguments, check=check, timeout=timeout, env=self.environment)

    def build(self, project: Path, kind: str, tag: str, *flags: object) -> str:
        """Build Dockerfile.KIND; what BuildKit told of it."""
        base = ("--build-arg", f"BASE_IMAGE={self.base}") if self.base else ()
        secret = ("--secret", f"id=pip,src={self.work / 'pip.conf'}")
        how = ("--progress=plain", "--network", "host", *base, *secret, *flags)
        what = ("--file", project / f"Dockerfile.{kind}", "--tag", tag, project)
        return self.docker("build", *how, *what, timeout=1500).stderr

    @contextmanager
    def building(self) -> Iterator[None]:
        """While images are built."""
        yield

    @contextmanager
    def running(self) -> Iterator[None]:
        """While containers run; this thread, and what it starts, reaches their published ports."""
        yield


class OwnEngine(Engine):
    """One that is started here, with all that it keeps in `work`: for root on Debian."""

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        self.base, self.client = BASE, "/usr/bin/docker"  # that of the same package, which builds by itself
        self.environment["DOCKER_HOST"] = f"unix://{work}/docker.sock"

    @contextmanager
    def building(self) -> Iterator[None]:
        """Without a bridge. The first time the base image is made."""
        with self._daemon("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"):
            if self.docker("image", "inspect", BASE, check=False).returncode:
                self.docker("import", "-c", "ENV LANG=C.UTF-8", base_system(self.work), BASE)
            yield

    @contextmanager
    def running(self) -> Iterator[None]:
        """In a network of its own."""
        try:
            run("ip", "netns", "add", NAMESPACE)
            run("ip", "-n", NAMESPACE, "link", "set", "lo", "up")
            with self._daemon("--ip6tables=false", prefix=("nsenter", f"--net=/run/netns/{NAMESPACE}")), inside(NAMESPACE):
                yield
        finally:
            run("ip", "netns", "del", NAMESPACE, check=False)

    @contextmanager
    def _daemon(self, *flags: str, prefix: tuple[str, ...] = ()) -> Iterator[None]:
        places = {"--data-root": "data", "--exec-root": "exec", "--pidfile": "docker.pid"}
        where = [f"{flag}={self.work / name}" for flag, name in places.items()]
        with (self.work / "dockerd.log").open("a") as log:
            command = [*prefix, "dockerd", *flags, *where, "-H", self.environment["DOCKER_HOST"]]
            daemon = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            until = time.monotonic() + 60
            while self.docker("info", check=False).returncode:
                assert daemon.poll() is None and time.monotonic() < until, (self.work / "dockerd.log").read_text()[-4000:]
                time.sleep(0.2)
            yield
            left = self.docker("ps", "-aq").stdout.split()
            if left:
                self.docker("rm", "-f", *left)
        finally:
            daemon.terminate()
            try:
                daemon.wait(60)
            finally:
                daemon.kill()


def base_system(work: Path) -> Path:
    """Debian 12 with Python 3.11 and this machine's certificates, archived: what stands in for python:3.11-slim-bookworm."""
    root, archive = work / "root", work / "base.tar"
    packages = "python3,python3-venv,python-is-python3,ca-certificates"
    run("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", root, timeout=1200)
    for certificate in Path("/usr/local/share/ca-certificates").glob("*.crt"):
        shutil.copy(certificate, root / "usr/local/share/ca-certificates")
    run("chroot", root, "/usr/sbin/update-ca-certificates", env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    for left in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(root / left, ignore_errors=True)
    run("tar", "--one-file-system", "-C", root, "-cf", archive, ".")
    shutil.rmtree(root)
    return archive


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread, and the processes that it starts, in a named network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(path: str) -> None:
        with Path(path).open("rb") as file:
            if libc.setns(file.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"{path}: {os.strerror(ctypes.get_errno())}")

    with Path("/proc/thread-self/ns/net").open("rb") as before:
        enter(f"/run/netns/{namespace}")
        try:
            yield
        finally:
            libc.setns(before.fileno(), CLONE_NEWNET)
