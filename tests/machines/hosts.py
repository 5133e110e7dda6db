"""Several hosts on one machine: network namespaces at one switch, each with an address of its own, that can be cut off."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.containers.run import leave_out, require_asked, run

OWN = f"seg{os.getpid()}"  # another checkout may do the same
SWITCH = f"{OWN}-switch"


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
