"""Run `python -m service` as a process on a free port."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cached_property
from pathlib import Path

import httpx

from tests.support.paths import ROOT
from tests.support.wait import wait_until

STARTUP_TIMEOUT_S = 60
BOUND_PORT = re.compile(r"Uvicorn running on http://\S+:(\d+)")


class ServiceProcess:
    """The service in a subprocess; it binds port 0 unless SEGMENT_PORT says otherwise, and its log names the port.

    Args:
        directory: holds the log file and, by default, the state directory.
        cwd: working directory of the process.
        settings: environment variables (SEGMENT_...); they override those of this process.
    """

    def __init__(self, directory: Path, cwd: Path = ROOT, **settings: object) -> None:
        variables = {"SEGMENT_PORT": 0, "SEGMENT_STATE": directory / "state", **settings}
        directory.mkdir(exist_ok=True)
        # A file and not a pipe: a pipe that the test does not read would fill up and block the service.
        self.log_file = directory / f"service-{len(list(directory.glob('service-*.log')))}.log"
        with self.log_file.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service"],
                cwd=cwd,
                env={**os.environ, "PYTHONPATH": str(ROOT), **{key: str(value) for key, value in variables.items()}},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @cached_property
    def port(self) -> int:
        """The port that the service has bound; waits until it has."""
        wait_until(self._logged_port, STARTUP_TIMEOUT_S)
        return self._logged_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_until_ready(self) -> None:
        """Wait until /readyz answers 200; raise AssertionError with the log if the service exits before that."""
        wait_until(self._is_ready, STARTUP_TIMEOUT_S, interval_s=0.05)

    def wait_for_exit(self) -> tuple[int, str]:
        """Wait until the process exits; return its exit code and its log."""
        self.process.wait(60)
        return self.process.returncode, self.log_file.read_text()

    def kill(self) -> None:
        """Kill the process and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def _is_ready(self) -> bool:
        self._fail_if_exited()
        try:
            return httpx.get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def _logged_port(self) -> int:
        """Return the port that the log names, 0 if it does not name one yet."""
        self._fail_if_exited()
        match = BOUND_PORT.search(self.log_file.read_text())
        return int(match[1]) if match else 0

    def _fail_if_exited(self) -> None:
        assert self.process.poll() is None, self.log_file.read_text()
