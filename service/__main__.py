"""Serve checkpoints over HTTP.

python -m service                                            serves what lies in ./runs
SEGMENT_CHECKPOINTS=runs/ddunet SEGMENT_PORT=9000 python -m service
SEGMENT_DATA=datasets/cityscapes python -m service           with data for /evaluate
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import re
import signal
import socket
import sys
import warnings
from contextlib import suppress
from errno import EADDRINUSE
from types import FrameType

from core import not_installed

try:
    import uvicorn
    from fastapi import FastAPI

    from core.errors import InputError
    from service.app import create_app
    from service.middleware.http_timeouts import Protocol
    from service.settings import PREFIX, Settings, load_settings
except ModuleNotFoundError as missing:
    sys.exit(not_installed(missing))

PROBES = re.compile(r"GET /(healthz|readyz) ")
GRACE_SECONDS = 8  # for requests under way when the service is told to stop; container engines allow 10


class Server(uvicorn.Server):
    """Tells a running evaluation to stop as the signal comes: a request that waits for it would hold up the rest."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came."""
        app: FastAPI = self.config.app  # type: ignore[assignment]
        app.state.ready = False
        if evaluations := getattr(app.state, "evaluations", None):
            evaluations.stop()
        super().handle_exit(sig, frame)


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT: 0; 2 where a setting is wrong, 1 where the default model can't be used."""
    lines = "\n".join(f"  {PREFIX + key.upper():24}{field.description}" for key, field in Settings.model_fields.items())
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description=__doc__,
        epilog=f"settings, from the environment:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)
    mute_decoders()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # probes come every few seconds and would bury the rest
    logging.getLogger("uvicorn.access").addFilter(lambda record: not PROBES.search(record.getMessage()))
    unusable: list[tuple[str, int]] = []

    def give_up(reason: str, code: int) -> None:
        unusable.append((reason, code))
        server.should_exit = True

    try:
        settings = load_settings()
        require_free(settings.host, settings.port)
        app = create_app(settings, on_unusable=give_up)
    except PortTaken as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # on h11: its limits on headers are what the parser of uvicorn's default lacks
    server = Server(
        uvicorn.Config(
            app,
            settings.host,
            settings.port,
            http=Protocol,
            ws="none",
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )
    # uvicorn raises the signal again after a clean stop, which would end this process with it
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    try:
        server.run()
    except SystemExit as error:  # the port was taken meanwhile, or a part of the service could not start
        return 1 if error.code else 0
    if unusable:
        reason, code = unusable[0]
        print(f"error: {reason}", file=sys.stderr)
        return code
    return 0


class PortTaken(Exception):
    """Something else listens there."""


def require_free(host: str, port: int) -> None:
    """Raise PortTaken, before models are read and said to be served."""
    with suppress(OSError):  # what else may be wrong with an address is told by the server
        for family, kind, number, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, number) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                try:
                    probe.bind(address)
                except OSError as error:
                    if error.errno == EADDRINUSE:
                        told = f"{host}:{port} can't be listened on ({error.strerror}); stop what listens there, or choose"
                        raise PortTaken(f"SEGMENT_PORT: {told} another one, such as SEGMENT_PORT=8001") from None


def mute_decoders() -> None:
    """Leave standard error to Python: libpng and libjpeg write a line for each fault of an upload, which would fill a log."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    warnings.filterwarnings("ignore", module=r"PIL\.")  # so does Pillow, and Python remembers each
    faulthandler.enable(sys.stderr)  # what ends the process from within such a library is told all the same
    with open(os.devnull, "wb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 2)


if __name__ == "__main__":
    sys.exit(main())
