"""Give image builds the package indexes that pip uses on this computer.

Indexes that are local directories are served over HTTP on the loopback interface, which builds with the network of this
computer can reach.
"""

from __future__ import annotations

import ast
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.support.commands import run

SETTINGS = ("index-url", "extra-index-url", "find-links", "trusted-host")
PACKAGE_SUFFIXES = (".whl", ".tar.gz", ".zip")


class PackageHandler(SimpleHTTPRequestHandler):
    """Serve packages and index pages from the given directories, and nothing else."""

    def __init__(self, directories: list[Path], *arguments: object) -> None:
        self.directories = directories
        super().__init__(*arguments, directory="/")  # type: ignore[arg-type]

    def send_head(self):  # type: ignore[no-untyped-def]
        path = Path(self.translate_path(self.path))
        # The pages of an index in simple/ link to packages in ../files.
        roots = [root for directory in self.directories for root in (directory, directory.parent / "files")]
        inside = any(root in (path, *path.parents) for root in roots)
        if inside and (path.name.endswith(PACKAGE_SUFFIXES) or path in self.directories or (path / "index.html").is_file()):
            return super().send_head()
        self.send_error(404)
        return None

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def _pip_settings() -> dict[str, list[str]]:
    """Return the values of SETTINGS from pip's configuration files and environment variables."""
    settings: dict[str, list[str]] = {}
    for line in run(sys.executable, "-m", "pip", "config", "list").stdout.splitlines():
        key, _, value = line.partition("=")
        name = key.removeprefix(":env:.").partition(".")[2] or key.removeprefix(":env:.")
        if name in SETTINGS:
            settings.setdefault(name, []).extend(ast.literal_eval(value).split())
    return settings


@contextmanager
def pip_conf(path: Path) -> Iterator[None]:
    """Write a pip.conf for builds to `path`, and serve local indexes, until the `with` block ends."""
    directories: list[Path] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(PackageHandler, directories))
    lines = ["[global]", "disable-pip-version-check = true", "timeout = 120"]
    for name, values in _pip_settings().items():
        urls = []
        for value in dict.fromkeys(values):
            directory = Path(unquote(urlsplit(value).path) if value.startswith("file:") else value)
            if directory.is_dir():
                directories.append(directory)
                value = f"http://127.0.0.1:{server.server_port}{directory}/"
            urls.append(value)
        lines.append(f"{name} = " + "\n    ".join(urls))
    path.write_text("\n".join(lines) + "\n")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
