"""Start a service as a process on a free port, measure its memory and stop it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.benchmarks.load_generator import closed_loop
from tests.support.paths import ROOT
from tests.support.ports import free_port

# `make bench` creates a second virtual environment with the packages of the other servers on top of those of this one.
SERVERS_PYTHON = str(Path(sys.prefix, "servers", "bin", "python"))
THIS_SERVICE = [sys.executable, "-m", "service"]
FASTAPI, LITSERVE, BENTOML = "naive FastAPI", "naive LitServe", "naive BentoML"
TUNED, TUNED_BILINEAR = "tuned FastAPI (nearest)", "tuned FastAPI (bilinear)"
TUNED_COMMAND = [sys.executable, "-m", "tests.benchmarks.servers.tuned_server", "PORT"]
OPENVINO, TORCH = "this service (OpenVINO)", "this service (torch)"
COMMANDS = {
    FASTAPI: [SERVERS_PYTHON, "-m", "tests.benchmarks.servers.fastapi_server", "PORT"],
    LITSERVE: [SERVERS_PYTHON, "-m", "tests.benchmarks.servers.litserve_server", "PORT"],
    BENTOML: [SERVERS_PYTHON, "-m", "bentoml", "serve", "tests.benchmarks.servers.bentoml_server:Service", "--port", "PORT"],
    TUNED: [*TUNED_COMMAND, "nearest"],
    TUNED_BILINEAR: [*TUNED_COMMAND, "bilinear"],
    OPENVINO: THIS_SERVICE,
    TORCH: THIS_SERVICE,
}


class Server:
    """A service that serves one checkpoint, started and ready.

    Args:
        kind: a key of COMMANDS.
        checkpoint: checkpoint to serve.
        body: form that is posted to /segment until the service answers.
        settings: settings of this project's service, by lower-case name.
    """

    def __init__(self, kind: str, checkpoint: Path, body: bytes, **settings: object) -> None:
        self.kind, self.port, started = kind, free_port(), time.monotonic()
        self._directory = tempfile.TemporaryDirectory()
        settings = {"port": self.port, "checkpoints": checkpoint, "state": self._directory.name, **settings}
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "CHECKPOINT": str(checkpoint),
            "BENTOML_DO_NOT_TRACK": "1",
            "SEGMENT_BACKEND": "torch" if kind == TORCH else "auto",
            **{f"SEGMENT_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.process = subprocess.Popen(
            [str(self.port) if argument == "PORT" else argument for argument in COMMANDS[kind]],
            env=environment,
            cwd=self._directory.name,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 90
        while not (first := closed_loop(self.port, [body], clients=1, requests=1)).latencies:
            assert self.process.poll() is None and time.monotonic() < deadline, f"{kind} does not answer"
            time.sleep(0.02)
        self.first_mask, self.start_seconds = first.last_body, time.monotonic() - started

    @property
    def memory(self) -> float:
        """Resident bytes of all its processes; memory that they share counts once (PSS on Linux)."""
        parent = psutil.Process(self.process.pid)
        return float(sum(process.memory_full_info().pss for process in (parent, *parent.children(recursive=True))))

    def close(self) -> None:
        """Stop all its processes."""
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
        self._directory.cleanup()
