"""Gives image builds what pip on this machine is set to: its indexes, those that lie on its disk by HTTP on loopback."""

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

from tests.e2e.containers.run import run

SETTINGS = ("index-url", "extra-index-url", "find-links", "trusted-host")
PACKAGES = (".whl", ".tar.gz", ".zip")


class Packages(SimpleHTTPRequestHandler):
    """Packages and pages of links, wherever they lie, and nothing else."""

    def __init__(self, folders: list[Path], *arguments: object) -> None:
        self.folders = folders
        super().__init__(*arguments, directory="/")  # type: ignore[arg-type]

    def send_head(self):  # type: ignore[no-untyped-def]
        path = Path(self.translate_path(self.path))
        roots = [root for folder in self.folders for root in (folder, folder.parent / "files")]  # simple/ links to ../files
        inside = any(root in (path, *path.parents) for root in roots)
        if inside and (path.name.endswith(PACKAGES) or path in self.folders or (path / "index.html").is_file()):
            return super().send_head()
        self.send_error(404)
        return None

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def pip_conf(path: Path) -> Iterator[None]:
    """Write a pip.conf that a build on this machine's network can use, for as long as the `with` block lasts."""
    found: dict[str, list[str]] = {}
    for line in run(sys.executable, "-m", "pip", "config", "list").stdout.splitlines():
        key, _, value = line.partition("=")
        name = key.removeprefix(":env:.").partition(".")[2] or key.removeprefix(":env:.")
        if name in SETTINGS:
            found.setdefault(name, []).extend(ast.literal_eval(value).split())
    folders: list[Path] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Packages, folders))
    lines = ["[global]", "disable-pip-version-check = true", "timeout = 120"]
    for name, places in found.items():
        shown = []
        for place in dict.fromkeys(places):
            folder = Path(unquote(urlsplit(place).path) if place.startswith("file:") else place)
            if folder.is_dir():
                folders.append(folder)
                shown.append(f"http://127.0.0.1:{server.server_port}{folder}/")
            else:
                shown.append(place)
        lines.append(f"{name} = " + "\n    ".join(shown))
    path.write_text("\n".join(lines) + "\n")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
