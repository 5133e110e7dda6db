"""Environment variables that others set: Kubernetes adds some to each pod for every Service in its namespace."""

from __future__ import annotations

import re

_NAME = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
_VALUE = re.compile(r"(tcp|udp|sctp)://")


def is_set_by_kubernetes(name: str, value: str) -> bool:
    """Return whether a variable is one of those that Kubernetes sets: TRAIN_SERVICE_HOST, TRAIN_PORT=tcp://..."""
    return bool(_NAME.search(name) or _VALUE.match(value))
