"""Several hosts on one machine: network namespaces at one switch, each with an address of its own, that can be cut off."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.containers.run import leave_out, require_asked, run

OWN = f"seg{os.getpid()}"  # another checkout may do the same
SWITCH = f"{OWN}-switch"
# seconds in which a host that joins late or says nothing is waited for; minutes where that is not told
QUICK = "last_call_timeout=4,keep_alive_interval=1,keep_alive_max_attempt=3,read_timeout=20"


@dataclass(frozen=True)
class Host:
    """One of them."""

    number: int

    @property
    def name(self) -> str:
        return f"{OWN}-host{self.number}"

    @property
    def address(self) -> str:
        return f"10.77.0.{self.number}"

    @property
    def prefix(self) -> tuple[str, ...]:
        """What a command begins with that runs there. Gloo finds its address by the host's name, which all of these share."""
        return ("nsenter", f"--net=/run/netns/{self.name}", "env", "GLOO_SOCKET_IFNAME=eth0")

    def torchrun(self, job: str, *options: object, before: tuple[str, ...] = ()) -> tuple[str, ...]:
        """torchrun here, as it is typed on each host of a job, behind some environment; the first keeps the meeting place."""
        # all hosts have one name here, by which it would find out its address, and whether it is to keep the meeting place
        own = ("--local-addr", self.address, "--rdzv-conf", f"{QUICK},is_host={str(self.number == 1).lower()}")
        meeting = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{Host(1).address}:29400", "--rdzv-id", job)
        launcher = (sys.executable, "-m", "torch.distributed.run", *map(str, options))
        return (*self.prefix, *before, *launcher, *meeting, *own)

    def cut_off(self) -> None:
        """Pull its cable."""
        run("ip", "-n", SWITCH, "link", "set", f"to{self.number}", "down")

    def power_off(self) -> None:
        """Kill everything that runs there."""
        for pid in run("ip", "netns", "pids", self.name).stdout.split():
            with suppress(ProcessLookupError):  # it went with its launcher
                os.kill(int(pid), signal.SIGKILL)


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """So many hosts, gone with everything on them at the end. Skips the test where that can't be had, and says so."""
    require_asked()
    if os.geteuid() or not (shutil.which("ip") and shutil.which("nsenter")):
        leave_out("hosts on one machine take root, iproute2 and util-linux")
    made = [Host(number) for number in range(1, count + 1)]
    try:
        run("ip", "netns", "add", SWITCH)
        run("ip", "-n", SWITCH, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", SWITCH, "link", "set", "bridge", "up")
        for host in made:
            cable = f"to{host.number}"
            run("ip", "netns", "add", host.name)
            run("ip", "-n", SWITCH, "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            run("ip", "-n", SWITCH, "link", "set", cable, "master", "bridge", "up")
            run("ip", "-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
            run("ip", "-n", host.name, "link", "set", "eth0", "up")
            run("ip", "-n", host.name, "link", "set", "lo", "up")
        yield made
    finally:
        for host in made:
            if Path("/run/netns", host.name).exists():
                host.power_off()
            subprocess.run(["ip", "netns", "del", host.name], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", SWITCH], capture_output=True, check=False)
