"""Work that is given up as soon as nobody wants it any more: the client has gone, or the job was ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from fastapi import Request

Result = TypeVar("Result")
LOOK_S = 0.1  # between two looks of a thread whether its work is still wanted


class ClientGone(Exception):
    """Nobody waits for the reply any more."""


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Do the work for a request whose body has been read; where the client goes, cancel it and raise ClientGone at its end."""
    doing, gone = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((doing, gone), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done() and gone.result()["type"] == "http.disconnect":
            raise ClientGone
        return await doing
    finally:
        gone.cancel()
        if not doing.done():
            doing.cancel()
            await asyncio.wait((doing,))


def waited_for(future: Future[Result], require_wanted: Callable[[], None]) -> Result:
    """What a future gives, for a thread; an exception of `require_wanted`, which is called meanwhile, cancels it."""
    try:
        while wait([future], LOOK_S).not_done:
            require_wanted()
        return future.result()
    finally:
        future.cancel()
