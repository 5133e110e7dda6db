"""Several hosts on one computer: network namespaces with their own addresses on a common bridge, which can be cut off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.commands import run
from tests.support.prerequisites import require_programs, require_root

NAME_PREFIX = f"seg{os.getpid()}"  # so that tests of another checkout can run at the same time
SWITCH = f"{NAME_PREFIX}-switch"
# torchrun waits minutes for a host that joins late or stops responding; the tests wait seconds.
RENDEZVOUS_TIMEOUTS = "last_call_timeout=4,keep_alive_interval=1,keep_alive_max_attempt=3,read_timeout=20"


@dataclass(frozen=True)
class Host:
    """A host by its number, starting at 1."""

    number: int

    @property
    def name(self) -> str:
        return f"{NAME_PREFIX}-host{self.number}"

    @property
    def address(self) -> str:
        return f"10.77.0.{self.number}"

    @property
    def command_prefix(self) -> tuple[str, ...]:
        """Prefix of a command that makes it run on this host.

        All hosts share the host name of the computer, from which gloo would derive a wrong address; so it gets the interface.
        """
        return ("nsenter", f"--net=/run/netns/{self.name}", "env", "GLOO_SOCKET_IFNAME=eth0")

    def torchrun(self, job: str, *options: object, environment: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Return the torchrun command of this host for a job whose rendezvous is on the first host.

        Args:
            job: rendezvous id.
            options: further options of torchrun.
            environment: assignments of environment variables, such as "NAME=1".
        """
        # Since all hosts share a host name, torchrun can't find out its address, nor whether it hosts the rendezvous.
        is_first = str(self.number == 1).lower()
        identity = ("--local-addr", self.address, "--rdzv-conf", f"{RENDEZVOUS_TIMEOUTS},is_host={is_first}")
        rendezvous = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{Host(1).address}:29400", "--rdzv-id", job)
        launcher = (sys.executable, "-m", "torch.distributed.run", *map(str, options))
        return (*self.command_prefix, *environment, *launcher, *rendezvous, *identity)

    def disconnect(self) -> None:
        """Cut the network connection of this host."""
        run("ip", "-n", SWITCH, "link", "set", f"to{self.number}", "down")

    def kill_processes(self) -> None:
        """Kill everything that runs on this host."""
        for pid in run("ip", "netns", "pids", self.name).stdout.split():
            with suppress(ProcessLookupError):  # it may have ended together with its launcher
                os.kill(int(pid), signal.SIGKILL)


@contextmanager
def create_hosts(count: int) -> Iterator[list[Host]]:
    """Create hosts and remove them, with all their processes, at the end. Skips or fails the test without root."""
    require_root()
    require_programs("ip", "nsenter", packages="iproute2 util-linux")
    created = [Host(number) for number in range(1, count + 1)]
    try:
        run("ip", "netns", "add", SWITCH)
        run("ip", "-n", SWITCH, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", SWITCH, "link", "set", "bridge", "up")
        for host in created:
            port = f"to{host.number}"
            run("ip", "netns", "add", host.name)
            run("ip", "-n", SWITCH, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            run("ip", "-n", SWITCH, "link", "set", port, "master", "bridge", "up")
            run("ip", "-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
            run("ip", "-n", host.name, "link", "set", "eth0", "up")
            run("ip", "-n", host.name, "link", "set", "lo", "up")
        yield created
    finally:
        for host in created:
            if Path("/run/netns", host.name).exists():
                host.kill_processes()
            subprocess.run(["ip", "netns", "del", host.name], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", SWITCH], capture_output=True, check=False)
