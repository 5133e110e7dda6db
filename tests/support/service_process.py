"""The service as a process of its own, on a free port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]


class Process:
    """`python -m service` on a free port."""

    def __init__(self, tmp_path: Path, cwd: Path = ROOT, **settings: object) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        given = {"SEGMENT_PORT": self.port, "SEGMENT_STATE": tmp_path / "state", **settings}
        tmp_path.mkdir(exist_ok=True)
        self._log = tmp_path / f"service-{self.port}.log"  # a pipe that nobody reads would fill up and stop it
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service"],
                cwd=cwd,
                env={**os.environ, "PYTHONPATH": str(ROOT), **{key: str(value) for key, value in given.items()}},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def until_ready(self) -> None:
        for _ in range(1200):
            try:
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert self.process.poll() is None, self._log.read_text()
            time.sleep(0.05)
        raise AssertionError("not ready")

    def ended(self) -> tuple[int, str]:
        self.process.wait(60)
        return self.process.returncode, self._log.read_text()
