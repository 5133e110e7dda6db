"""Every error as `application/problem+json` (RFC 9457) with a stable code and a request id, never echoing the input."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

# every code that a reply can carry, with its status; docs/api.md lists the same
CODES = {
    "bad_request": 400,
    "malformed_body": 400,
    "unknown_host": 400,
    "too_many_files": 400,
    "no_key": 401,
    "foreign_origin": 403,
    "wrong_role": 403,
    "not_found": 404,
    "unknown_evaluation": 404,
    "unknown_model": 404,
    "unknown_split": 404,
    "method_not_allowed": 405,
    "slow_body": 408,
    "evaluation_cancelled": 409,
    "evaluation_finished": 409,
    "evaluation_running": 409,
    "labels_differ": 409,
    "no_data": 409,
    "too_large": 413,
    "content_encoding": 415,
    "not_an_image": 415,
    "unsupported_media_type": 415,
    "animated_image": 422,
    "broken_image": 422,
    "empty_file": 422,
    "invalid_parameter": 422,
    "no_file": 422,
    "internal_error": 500,
    "evaluation_failed": 500,
    "deadline_passed": 503,
    "model_unusable": 503,
    "not_ready": 503,
    "overloaded": 503,
    "shutting_down": 503,
}


class Problem(Exception):
    """An error reply: a code of CODES, a sentence that says what would work, and headers to go with it."""

    def __init__(self, code: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.code, self.detail, self.headers = code, detail, headers
        self.status = CODES[code]


def deadline_passed() -> Problem:
    """For a request that has been inside for too long."""
    return Problem(
        "deadline_passed", "the service was too busy, or took too long to load the model; try again later", {"Retry-After": "5"}
    )


def shutting_down() -> Problem:
    """For a request that the service's end does not leave time for."""
    return Problem("shutting_down", "the service ends; send it again in a moment", {"Retry-After": "10"})


def reply(request: Request, problem: Problem) -> JSONResponse:
    """The problem as a response."""
    request_id = getattr(request.state, "request_id", None)
    return JSONResponse(
        {
            "type": "about:blank",
            "title": HTTPStatus(problem.status).phrase,
            "status": problem.status,
            "detail": problem.detail,
            "code": problem.code,
            "request_id": request_id,
        },
        status_code=problem.status,
        headers=dict(problem.headers or {}),
        media_type="application/problem+json",
    )


def install(app: FastAPI) -> None:
    """Make every error of the application a problem."""

    @app.exception_handler(Problem)
    async def _(request: Request, error: Problem) -> JSONResponse:
        return reply(request, error)

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]  # its `input` is left out: what came in does not go out
        where = ".".join(str(part) for part in first["loc"])
        return reply(request, Problem("invalid_parameter", f"{where}: {first['msg']}"))

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = (error.headers or {}).get("Allow", "another method")
            problem = Problem("method_not_allowed", f"this path takes {allowed}; /docs shows how", error.headers)
        elif error.status_code == HTTPStatus.NOT_FOUND:
            problem = Problem("not_found", "there is nothing at this path; /docs lists what there is")
        else:
            problem = Problem("bad_request", str(error.detail), error.headers)
        return reply(request, problem)
