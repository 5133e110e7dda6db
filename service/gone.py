"""Work for a client, given up as soon as the client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

Result = TypeVar("Result")


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
