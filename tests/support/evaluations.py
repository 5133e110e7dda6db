"""Follow evaluation jobs of the service through its HTTP API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.evaluation.store import Job
from tests.support.wait import wait_until


def wait_for_evaluation(client: TestClient, location: str) -> dict[str, Any]:
    """Poll the job at `location` until it has ended, then return its JSON."""
    wait_until(lambda: client.get(location).json()["state"] not in ("queued", "running"), interval_s=0.05)
    job: dict[str, Any] = client.get(location).json()
    return job


def read_events(client: TestClient, location: str) -> list[tuple[str, dict[str, Any]]]:
    """Read the server-sent events of a job until the stream ends, as (event name, data) pairs."""
    blocks = client.get(f"{location}/events").text.strip().split("\n\n")
    events = [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]
    return [(event["event"], json.loads(event["data"])) for event in events]


def on_evaluation_event(patch: pytest.MonkeyPatch, client: TestClient, action: Callable[[], object]) -> None:
    """Call `action` whenever the service has sent a server-sent event of an evaluation, before it waits for the next one."""
    manager = client.app.state.evaluations
    original = manager.events

    async def events(job: Job) -> AsyncIterator[Job]:
        async for current in original(job):
            yield current
            action()

    patch.setattr(manager, "events", events)
