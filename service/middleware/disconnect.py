"""Cancellation of work whose result is no longer needed, because the client disconnected or the job was cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from fastapi import Request

Result = TypeVar("Result")
POLL_S = 0.1  # interval at which a waiting thread checks for cancellation


class ClientDisconnected(Exception):
    """The client closed the connection before the response."""


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of a coroutine; if the client disconnects, cancel it and raise ClientDisconnected when it has ended.

    What has not been read of the body is discarded.
    """
    task, disconnected = asyncio.ensure_future(work), asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait((task, disconnected), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnected
        return await task
    finally:
        disconnected.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def wait_cancellable(future: Future[Result], check_cancelled: Callable[[], None]) -> Result:
    """Wait in a thread for the result of a future; an exception from `check_cancelled`, which is polled, cancels it."""
    try:
        while wait([future], POLL_S).not_done:
            check_cancelled()
        return future.result()
    finally:
        future.cancel()
