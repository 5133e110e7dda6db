"""Launch one process per GPU on this node, forward signals, and restart all from the newest checkpoint if one dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from core.errors import InputError
from core.runtime.atomic import write_atomically
from core.runtime.cpu import NUM_CPUS
from training.distributed.context import LAUNCHER_PID_ENV
from training.distributed.signals import StopRequest, graceful_stop

PAYLOAD_ENV = "TRAINING_PAYLOAD_FILE"  # names the file with the payload of `launch`
FATAL_ERROR_ENV = "TRAINING_FATAL_ERROR_FILE"  # names the file for an error after which a restart is of no use
EXIT_INPUT_ERROR, EXIT_INTERRUPTED = 2, 130  # exit codes of a command
POLL_INTERVAL_S = 0.05
PROGRAM = (sys.executable, "-m", "training")
TORCHRUN_DEFAULT_ID = "none"  # torchrun's job id without --rdzv-id


def processes_to_launch(gpus: int | None) -> int:
    """Return how many processes to launch: one per visible GPU, at most `gpus`; 1 if a launcher started this process.

    Raises:
        InputError: `gpus` is positive and no GPU is visible.
    """
    if "RANK" in os.environ:
        return 1
    import torch

    visible = torch.cuda.device_count()
    if gpus and not visible:
        raise InputError(f"--gpus: {gpus} requested, but no GPU is visible; omit the flag, or use 0 for the CPU")
    return max(1, visible if gpus is None else min(gpus, visible))


def launch(processes: int, arguments: Sequence[str], payload: str = "", max_restarts: int = 3) -> int:
    """Run `python -m training ARGUMENTS` in several processes on this node and return the exit code of the job.

    When a process dies, the others are killed and all are restarted, unless one has reported a fatal error.

    Args:
        processes: Number of processes; each gets torchrun's environment variables.
        arguments: Command-line arguments, the same for all processes.
        payload: Text that each process can read with `read_payload`.
        max_restarts: Maximum number of restarts.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with tempfile.TemporaryDirectory(prefix="training-") as directory, graceful_stop(announce=True) as stop_request:
        payload_file, fatal_error_file = Path(directory, "payload"), Path(directory, "fatal-error")
        payload_file.write_text(payload, encoding="utf-8")
        for attempt in range(max_restarts + 1):
            environment = {
                "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",  # the launcher hosts the store, no rank does
                "TORCHELASTIC_RESTART_COUNT": str(attempt),
                PAYLOAD_ENV: str(payload_file),
                FATAL_ERROR_ENV: str(fatal_error_file),
                LAUNCHER_PID_ENV: str(os.getpid()),
            }
            failure = _run_attempt([*PROGRAM, *arguments], processes, environment, stop_request)
            if failure is None:
                return 0
            rank, code = failure
            if fatal_error_file.exists():
                return int(json.loads(fatal_error_file.read_text(encoding="utf-8"))["code"])
            if code == EXIT_INPUT_ERROR:
                return EXIT_INPUT_ERROR
            message = f"process {rank} {_describe_exit(code)}"
            if stop_request.requested and code in (-signal.SIGTERM, EXIT_INTERRUPTED):
                print(stop_message(attempt), flush=True)
                return 0
            if stop_request.requested:
                print(f"error: {message} after a stop was requested", file=sys.stderr)
                return 1
            if attempt < max_restarts:
                restart = f"restart {attempt + 1} of {max_restarts}"
                print(f"{message}; restarting all processes from the newest checkpoint ({restart})", flush=True)
        print(f"error: {message}; giving up after {max_restarts} restarts", file=sys.stderr)
        return 1


def _run_attempt(
    command: list[str], processes: int, environment: Mapping[str, str], stop_request: StopRequest
) -> tuple[int, int] | None:
    """Start all processes and wait for them; return rank and exit code of the first that fails, None if none does."""
    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, NUM_CPUS // processes))}
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(processes):
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            # With its own session, a worker gets a terminal's Ctrl-C once: from this process.
            workers.append(
                subprocess.Popen(  # noqa: S603 -- this program
                    command, env={**os.environ, **threads, **environment, **ranks}, start_new_session=True
                )
            )
        forwarded = False
        while True:
            if stop_request.requested and not forwarded:
                forwarded = True
                for worker in workers:
                    worker.send_signal(signal.SIGTERM)
            codes = [worker.poll() for worker in workers]
            failure = next(((rank, code) for rank, code in enumerate(codes) if code), None)
            if failure or all(code == 0 for code in codes):
                return failure
            time.sleep(POLL_INTERVAL_S)
    finally:
        for worker in workers:
            worker.kill()  # The remaining ones wait for the one that failed.
        for worker in workers:
            worker.wait()


def _describe_exit(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"


def stop_message(attempt: int) -> str:
    """Return the message for a stop before the first step of an attempt, 0 for the first."""
    resume = " with --resume" if attempt else ""
    return f"stopped before the first step; nothing is lost: run the same command again{resume}"


def report_fatal_error(code: int) -> None:
    """Report to the launcher that a restart would end with the same error, and the exit code to end with."""
    path = os.environ.get(FATAL_ERROR_ENV)
    if path:
        with suppress(OSError):  # A full disk may be the very error.
            write_atomically(Path(path), [json.dumps({"code": code}).encode()])


def read_payload() -> str | None:
    """Return the payload that was passed to `launch`, None if this process was not started by it."""
    path = os.environ.get(PAYLOAD_ENV)
    return Path(path).read_text(encoding="utf-8") if path else None


def job_id() -> str | None:
    """Return an id of the launcher's job that is the same on all nodes and after restarts; None without a launcher.

    It is torchrun's --rdzv-id. If none was given, it is the launcher's process, which differs between nodes.
    """
    run_id = os.environ.get("TORCHELASTIC_RUN_ID")
    return f"{run_id}, process {os.getppid()} on {socket.gethostname()}" if run_id == TORCHRUN_DEFAULT_ID else run_id
