"""The page at `/`, for people with a browser, and its files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

STATIC = Path(__file__).parent / "static"
FRESH = {"Cache-Control": "no-cache"}  # asked for each time, so that a new version is seen at once; mostly answered 304
HEADERS = FRESH | {
    # nothing from outside, nothing that is written into the page is run, and no other page may frame it
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src blob:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",  # without one, some browsers send no Origin that could be checked
}


class Files(StaticFiles):
    """Files that a browser asks for each time."""

    def file_response(self, full_path: os.PathLike[str] | str, *others: Any, **more: Any) -> Response:
        """A file, or that it has not changed."""
        response = super().file_response(full_path, *others, **more)
        response.headers.update(FRESH)
        return response


def install(app: FastAPI) -> None:
    """Put the page and its files in their places."""
    app.mount("/static", Files(directory=STATIC))

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        """The page for people."""
        return FileResponse(STATIC / "index.html", headers=HEADERS)
