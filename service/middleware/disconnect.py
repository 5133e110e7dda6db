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

    The body of the request must have been read completely.
    """
    task, message = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((task, message), return_when=asyncio.FIRST_COMPLETED)
        if not task.done() and message.result()["type"] == "http.disconnect":
            raise ClientDisconnected
        return await task
    finally:
        message.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))


def wait_cancellable(future: Future[Result], check_cancelled: Callable[[], None]) -> Result:
    """Wait in a thread for the result of a future; an exception from `check_cancelled`, which is polled, cancels it."""
    try:
        while wait([future], POLL_S).not_done:
            check_cancelled()
        return future.result()
    finally:
        future.cancel()
