"""The web page at `/` and its static files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from service.api.roles import requires_role

STATIC = Path(__file__).parent / "static"
# Browsers revalidate each file, so that a new version appears at once; mostly the response is 304.
NO_CACHE = {"Cache-Control": "no-cache"}
PAGE_HEADERS = NO_CACHE | {
    # Load nothing from other origins, run no inline script, and let no other page frame this one.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src blob:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",  # Without it, some browsers send no Origin header, which must be checked.
}

router = APIRouter()


class RevalidatedFiles(StaticFiles):
    """Static files that a browser revalidates at each use."""

    def file_response(self, full_path: os.PathLike[str] | str, *args: Any, **kwargs: Any) -> Response:
        """Return the file, or 304 if the client has the current version."""
        response = super().file_response(full_path, *args, **kwargs)
        response.headers.update(NO_CACHE)
        return response


@router.head("/", include_in_schema=False)
@router.get("/", include_in_schema=False)
@requires_role(None)
async def get_page() -> FileResponse:
    """Return the web page."""
    return FileResponse(STATIC / "index.html", headers=PAGE_HEADERS)


def mount_static_files(app: FastAPI) -> None:
    """Serve the files of the web page below `/static`."""
    app.mount("/static", RevalidatedFiles(directory=STATIC))
