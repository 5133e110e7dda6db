"""HTTP/1.1 with the timeouts that uvicorn lacks: for request headers, and for responses that the client does not read."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_TIMEOUT_S = 10.0  # from the connection or the previous response to the end of the request's headers
WRITE_TIMEOUT_S = 120.0  # for reading a response, from when the client first falls behind or the response is complete


class TimeoutH11Protocol(H11Protocol):
    """Close a connection if the next headers are not complete in time, or if the response is not read in time.

    The body of a request has timeouts where it is read; what arrives of it after the response counts as headers.
    """

    _header_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _write_cycle: object = None  # the request whose response the write timer belongs to

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Handle a new connection."""
        super().connection_made(transport)
        self._update_header_timer()

    def data_received(self, data: bytes) -> None:
        """Handle received bytes."""
        super().data_received(data)
        self._update_header_timer()

    def on_response_complete(self) -> None:
        """Handle the end of a response, which may still be in the transport's buffer."""
        super().on_response_complete()
        self._update_header_timer()
        self._start_write_timer()

    def pause_writing(self) -> None:
        """Handle a client that reads more slowly than the response is written."""
        super().pause_writing()
        self._start_write_timer()

    def send_400_response(self, msg: str) -> None:
        """Respond to invalid HTTP; if the request already has a response, only close the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle a closed connection."""
        for timer in (self._header_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _start_write_timer(self) -> None:
        """Start the timer of the current response, unless it runs already."""
        if self._write_timer is not None:
            if self._write_cycle is self.cycle:
                return
            self._write_timer.cancel()
        self._write_cycle = self.cycle
        self._write_timer = self.loop.call_later(WRITE_TIMEOUT_S, self._on_write_timeout)

    def _update_header_timer(self) -> None:
        """Stop the timer while a request is processed, else start it unless it runs already."""
        if self.cycle is not None and not self.cycle.response_complete:
            if self._header_timer is not None:
                self._header_timer.cancel()
                self._header_timer = None
        elif self._header_timer is None:
            self._header_timer = self.loop.call_later(HEADER_TIMEOUT_S, self._on_header_timeout)

    def _on_header_timeout(self) -> None:
        self._header_timer = None
        if self.transport.get_write_buffer_size():  # A response is still being read, which has its own timeout.
            self._update_header_timer()
        else:
            self.transport.close()

    def _on_write_timeout(self) -> None:
        self._write_timer = None
        if self._write_cycle is self.cycle and self.transport.get_write_buffer_size():
            self.transport.abort()
