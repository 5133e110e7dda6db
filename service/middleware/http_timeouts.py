"""HTTP/1.1 with deadlines that uvicorn lacks: for headers, for what follows a reply, for replies that nobody reads."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0  # from the connection, or from the reply before, to the end of a request's header
READ_SECONDS = 120.0  # for a reply to be read, from when its reader first falls behind


class Protocol(H11Protocol):
    """Closes a connection whose next header is not whole in time, or whose reply is not read.

    A body has deadlines where it is read; what still comes of one after its reply has that of a header.
    """

    _late: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _awaited: object = None  # the request whose reply that is

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """A reply has been given to the transport."""
        super().on_response_complete()
        self._watch()
        self._await_reader()

    def pause_writing(self) -> None:
        """The client reads more slowly than the reply comes."""
        super().pause_writing()
        self._await_reader()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP; where a reply has been sent for it already, nothing more can be said."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        for timer in (self._late, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _await_reader(self) -> None:
        """Give a reply its time, from when it is complete, or from when its reader first falls behind."""
        if self._unread is not None:
            if self._awaited is self.cycle:
                return
            self._unread.cancel()
        self._awaited = self.cycle
        self._unread = self.loop.call_later(READ_SECONDS, self._abort_unread)

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:  # a request is under way
            if self._late is not None:
                self._late.cancel()
                self._late = None
        elif self._late is None:
            self._late = self.loop.call_later(HEADER_SECONDS, self._close)

    def _close(self) -> None:
        self._late = None
        if self.transport.get_write_buffer_size():  # of a reply, which has a deadline of its own
            self._watch()
        else:
            self.transport.close()

    def _abort_unread(self) -> None:
        self._unread = None
        if self._awaited is self.cycle and self.transport.get_write_buffer_size():
            self.transport.abort()
