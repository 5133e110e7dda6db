"""Choose ports for servers that can't bind port 0 and report the port that they got."""

from __future__ import annotations

import random
import socket


def free_port() -> int:
    """Return a port of the loopback interface that nothing is bound to.

    The port is below the range from which the kernel assigns ports to other sockets (32768 and above on Linux), so
    no other process is given it before the caller's server binds it.
    """
    while True:
        port = random.randrange(10_000, 32_768)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
