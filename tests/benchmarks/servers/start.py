"""Services as processes of their own: started on a free port, waited for, measured, stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.benchmarks import load

ROOT = Path(__file__).parents[3]
# packages of other servers have a virtual environment of their own, which sees those of this one: `make bench` makes it
OTHERS = Path(sys.prefix, "servers", "bin", "python")
OURS = [sys.executable, "-m", "service"]
COMMANDS = {
    "FastAPI, plain": [str(OTHERS), "-m", "tests.benchmarks.servers.fastapi_", "PORT"],
    "LitServe, plain": [str(OTHERS), "-m", "tests.benchmarks.servers.litserve_", "PORT"],
    "BentoML, plain": [str(OTHERS), "-m", "bentoml", "serve", "tests.benchmarks.servers.bentoml_:Service", "--port", "PORT"],
    "ours": OURS,
    "ours, torch": OURS,
}


class Server:
    """A service with one checkpoint, answering."""

    def __init__(self, kind: str, checkpoint: Path, body: bytes, **settings: object) -> None:
        self.kind = kind
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._folder = tempfile.TemporaryDirectory()
        told = {"port": self.port, "checkpoints": checkpoint, "state": self._folder.name, **settings}
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "CHECKPOINT": str(checkpoint),
            "BENTOML_DO_NOT_TRACK": "1",
            "SEGMENT_BACKEND": "torch" if kind == "ours, torch" else "auto",
            **{f"SEGMENT_{name.upper()}": str(value) for name, value in told.items()},
        }
        command = [str(self.port) if word == "PORT" else word for word in COMMANDS[kind]]
        self.process = subprocess.Popen(
            command, env=environment, cwd=self._folder.name, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        end = time.monotonic() + 90
        while True:
            self.first = load.closed(self.port, [body], 1, requests=1)
            if self.first.seconds:
                return
            assert self.process.poll() is None and time.monotonic() < end, f"{kind} does not answer"
            time.sleep(0.1)

    @property
    def memory(self) -> float:
        """Resident bytes of its processes; what several of them share counts once (Linux's PSS)."""
        whole = psutil.Process(self.process.pid)
        return float(sum(process.memory_full_info().pss for process in (whole, *whole.children(recursive=True))))

    def close(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
        self._folder.cleanup()
