"""Serve checkpoints over HTTP.

python -m service                                            serves the checkpoints in ./runs, or the bundled ones
SEGMENT_CHECKPOINTS=runs/ddunet SEGMENT_PORT=9000 python -m service
SEGMENT_DATA=datasets/cityscapes python -m service           with a dataset for /evaluate
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

from core import missing_dependency_message

try:
    import uvicorn
    from fastapi import FastAPI

    from core.errors import InputError
    from service.app import create_app
    from service.middleware.http_timeouts import TimeoutH11Protocol
    from service.settings import PREFIX, Settings, load_settings
except ModuleNotFoundError as missing:
    sys.exit(missing_dependency_message(missing))

PROBE_PATHS = re.compile(r"GET /(healthz|readyz) ")
SHUTDOWN_TIMEOUT_S = 8  # for requests in flight at the stop signal; container engines kill the process after 10 s


class Server(uvicorn.Server):
    """A server that interrupts evaluations before it waits for requests in flight, some of which wait for evaluations.

    This is not done in the handler of the stop signal: it takes locks, which the code that the signal interrupts may hold.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop serving."""
        app: FastAPI = self.config.app  # type: ignore[assignment]
        app.state.ready = False
        if evaluations := getattr(app.state, "evaluations", None):
            evaluations.stop()
        await super().shutdown(sockets)


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT.

    Returns:
        Exit code: 0 after a stop signal, 2 if a setting is wrong, 1 if the default model can't be used.
    """
    _parse_arguments(arguments)
    faulthandler.enable()
    warnings.filterwarnings("ignore", module=r"PIL\.")  # It warns of faults of uploaded images.
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # Requests of probes arrive every few seconds and would bury all others.
    logging.getLogger("uvicorn.access").addFilter(lambda record: not PROBE_PATHS.search(record.getMessage()))
    failures: list[tuple[str, int]] = []

    def on_startup_failure(reason: str, code: int) -> None:
        failures.append((reason, code))
        server.should_exit = True

    try:
        settings = load_settings()
        check_port_free(settings.host, settings.port)
        app = create_app(settings, on_startup_failure)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    server = Server(
        uvicorn.Config(
            app,
            settings.host,
            settings.port,
            http=TimeoutH11Protocol,  # h11 limits the size of headers; the default parser does not.
            ws="none",
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
        )
    )
    # After a clean stop uvicorn raises the signal again, which must not end this process with the signal's exit code.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    try:
        server.run()
    except SystemExit as error:  # uvicorn could not listen, or the lifespan failed; it has logged the reason.
        return 1 if error.code else 0
    if failures:
        reason, code = failures[0]
        print(f"error: {reason}", file=sys.stderr)
        return code
    return 0


def _parse_arguments(arguments: list[str] | None) -> None:
    """Handle --help; there are no other arguments."""
    settings = "\n".join(f"  {PREFIX + key.upper():24}{field.description}" for key, field in Settings.model_fields.items())
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description=__doc__,
        epilog=f"settings (environment variables):\n{settings}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)


def check_port_free(host: str, port: int) -> None:
    """Raise InputError if another process listens on the port; uvicorn would notice only after the application started."""
    with suppress(OSError):  # uvicorn reports all other problems with the address.
        for family, *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            try:
                socket.create_server(address, family=family).close()
            except OSError as error:
                if error.errno == EADDRINUSE:
                    raise InputError(
                        f"SEGMENT_PORT: can't listen on {host}:{port} ({os.strerror(EADDRINUSE)}); stop the process that"
                        " listens on it, or choose another port, for example SEGMENT_PORT=8001"
                    ) from None


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # A thread that reads from a drive that hangs would keep the process alive.
