"""Fixtures that create hosts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.multi_host.hosts import Host, create_hosts


@pytest.fixture
def two_hosts() -> Iterator[list[Host]]:
    with create_hosts(2) as hosts:
        yield hosts


@pytest.fixture
def three_hosts() -> Iterator[list[Host]]:
    with create_hosts(3) as hosts:
        yield hosts
