"""Starts one process for each GPU, passes signals on, and starts all again from the newest checkpoint when one dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from core.errors import InputError
from core.runtime.cpu import CORES
from core.runtime.files import write_atomically
from training.distributed.context import LAUNCHER
from training.distributed.signals import StopWish, stop_wish

ORDERS = "TRAINING_ORDERS"  # names the file that tells the processes what their parent has settled
VERDICT = "TRAINING_VERDICT"  # names the file in which a process tells an error that another attempt would meet again
WRONG_INPUT, STOPPED = 2, 130  # what a command ends with that was told something wrong, or was interrupted
POLL_S = 0.05
PROGRAM = (sys.executable, "-m", "training")


def processes_to_launch(gpus: int | None) -> int:
    """How many processes this command should start: one for each GPU, at most `gpus`; 1 where a launcher already did.

    Raises InputError where GPUs are asked for and there are none.
    """
    if "RANK" in os.environ:
        return 1
    visible = torch.cuda.device_count()
    if gpus and not visible:
        raise InputError(f"--gpus: {gpus} asked for, and this machine shows none; leave it out, or say 0 for the CPU")
    return max(1, visible if gpus is None else min(gpus, visible))


def launch(processes: int, arguments: Sequence[str], orders: str = "", max_restarts: int = 3) -> int:
    """Run `python -m training ARGUMENTS` in so many processes on this machine; the exit code of the whole.

    `orders` is a text that every process finds in the file named by the environment. When a process dies, the others
    are killed and all are started again, at most `max_restarts` times, unless one left a verdict that it is no use.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with tempfile.TemporaryDirectory(prefix="training-") as folder, stop_wish(tell=True) as wish:
        verdict = Path(folder, "verdict")
        Path(folder, "orders").write_text(orders, encoding="utf-8")
        for attempt in range(max_restarts + 1):
            common = {
                "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is this process's, none of theirs
                "TORCHELASTIC_RESTART_COUNT": str(attempt),
                ORDERS: str(Path(folder, "orders")),
                VERDICT: str(verdict),
                LAUNCHER: str(os.getpid()),
            }
            failed = _attempt([*arguments], processes, common, wish)
            if failed is None:
                return 0
            if verdict.exists():
                return int(json.loads(verdict.read_text(encoding="utf-8"))["code"])
            if failed[1] == WRONG_INPUT:
                return WRONG_INPUT
            told = f"process {failed[0]} {_describe(failed[1])}"
            if wish.asked and failed[1] in (-signal.SIGTERM, STOPPED):
                print(stopped_before(attempt), flush=True)
                return 0
            if wish.asked:
                print(f"error: asked to stop, and {told}", file=sys.stderr)
                return 1
            if attempt < max_restarts:
                print(
                    f"{told}; all start again from the newest checkpoint (restart {attempt + 1} of {max_restarts})", flush=True
                )
        print(f"error: {told}, and {max_restarts} restarts did not help", file=sys.stderr)
        return 1


def _attempt(arguments: list[str], processes: int, common: dict[str, str], wish: StopWish) -> tuple[int, int] | None:
    """Start the processes and wait for them; (rank, return code) of the first that failed, None where all are done."""
    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, CORES // processes))}
    started: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(processes):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            command = [*PROGRAM, *arguments]
            # in a session of their own a terminal's Ctrl-C reaches them once, through this process
            environment = {**os.environ, **threads, **common, **own}
            started.append(subprocess.Popen(command, env=environment, start_new_session=True))  # noqa: S603 -- this program
        told = False
        while True:
            if wish.asked and not told:
                told = True
                for process in started:
                    process.send_signal(signal.SIGTERM)
            codes = [process.poll() for process in started]
            failed = next(((rank, code) for rank, code in enumerate(codes) if code), None)
            if failed or all(code == 0 for code in codes):
                return failed
            time.sleep(POLL_S)
    finally:
        for process in started:
            process.kill()  # what is left of them waits for one that is gone
        for process in started:
            process.wait()


def stopped_before(attempt: int) -> str:
    """What to tell of a stop before an attempt's first step; the first attempt is 0."""
    again = ", with --resume" if attempt else ""
    return f"stopped before the first step: nothing is lost; start the same command again{again}"


def leave_verdict(code: int) -> None:
    """Tell the launcher that another attempt would end the same way."""
    path = os.environ.get(VERDICT)
    if path:
        with suppress(OSError):  # a full disk, which may be what is to be told
            write_atomically(Path(path), [json.dumps({"code": code}).encode()])


def read_orders() -> str | None:
    """What the parent has settled, None where there is no parent of this kind."""
    path = os.environ.get(ORDERS)
    return Path(path).read_text(encoding="utf-8") if path else None


def job() -> str | None:
    """What tells one job of a launcher from another, over restarts and on all its machines; None where there is none.

    That is torchrun's --rdzv-id. Without one it is the launcher's process, which is not the same on another machine.
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    return f"{name}, process {os.getppid()} on {socket.gethostname()}" if name == NO_NAME else name


NO_NAME = "none"  # what torchrun calls a job that was given no --rdzv-id


def _describe(code: int) -> str:
    return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
