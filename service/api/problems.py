"""Errors as `application/problem+json` (RFC 9457) with a stable code and a request id; they never echo the input."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

# Status by error code; docs/api.md has the same list.
STATUS_BY_CODE = {
    "bad_request": 400,
    "malformed_body": 400,
    "invalid_host": 400,
    "too_many_files": 400,
    "unauthorized": 401,
    "cross_origin_denied": 403,
    "insufficient_scope": 403,
    "not_found": 404,
    "unknown_evaluation": 404,
    "unknown_example": 404,
    "unknown_model": 404,
    "unknown_split": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "evaluation_cancelled": 409,
    "evaluation_finished": 409,
    "evaluation_running": 409,
    "label_space_mismatch": 409,
    "not_comparable": 409,
    "dataset_unavailable": 409,
    "too_large": 413,
    "content_encoding": 415,
    "unsupported_image_format": 415,
    "unsupported_media_type": 415,
    "animated_image": 422,
    "corrupt_image": 422,
    "empty_file": 422,
    "invalid_parameter": 422,
    "no_file": 422,
    "internal_error": 500,
    "evaluation_failed": 500,
    "deadline_exceeded": 503,
    "model_unavailable": 503,
    "not_ready": 503,
    "overloaded": 503,
    "shutting_down": 503,
}


class ProblemError(Exception):
    """An error response.

    Args:
        code: A key of `STATUS_BY_CODE`.
        detail: One sentence: what is wrong, what was expected, what to do. It must not contain input.
        headers: Additional response headers.
    """

    def __init__(self, code: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.code, self.detail, self.headers = code, detail, headers
        self.status = STATUS_BY_CODE[code]


def deadline_exceeded() -> ProblemError:
    """Return the error of a request whose inference did not begin before its deadline."""
    return ProblemError(
        "deadline_exceeded",
        "the service was too busy, or the model took too long to load; retry later",
        {"Retry-After": "5"},
    )


def shutting_down() -> ProblemError:
    """Return the error of a request that can't finish before the service stops."""
    return ProblemError("shutting_down", "the service is shutting down; retry in a moment", {"Retry-After": "10"})


def problem_responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI `responses` of an endpoint that can fail with these error codes."""
    codes_by_status: dict[int | str, list[str]] = {}
    for code in codes:
        codes_by_status.setdefault(STATUS_BY_CODE[code], []).append(code)
    return {
        status: {"description": "code " + " or ".join(codes), "content": {"application/problem+json": {}}}
        for status, codes in codes_by_status.items()
    }


def problem_response(request: Request, problem: ProblemError) -> JSONResponse:
    """Return the response for an error."""
    return JSONResponse(
        {
            "type": "about:blank",
            "title": HTTPStatus(problem.status).phrase,
            "status": problem.status,
            "detail": problem.detail,
            "code": problem.code,
            "request_id": getattr(request.state, "request_id", None),
        },
        status_code=problem.status,
        headers=dict(problem.headers or {}),
        media_type="application/problem+json",
    )


def add_exception_handlers(app: FastAPI) -> None:
    """Turn every error that the application raises into a problem response."""

    @app.exception_handler(ProblemError)
    async def handle_problem(request: Request, error: ProblemError) -> JSONResponse:
        return problem_response(request, error)

    @app.exception_handler(RequestValidationError)
    async def handle_invalid_parameter(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]  # The name of the parameter and the reason; its `input` must not be echoed.
        parameter = ".".join(str(part) for part in first["loc"])
        detail = f"{parameter}: {first['msg'].removeprefix('Value error, ')}"
        return problem_response(request, ProblemError("invalid_parameter", detail))

    @app.exception_handler(HTTPException)
    async def handle_http_exception(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = (error.headers or {}).get("Allow", "another method")
            hint = "`curl -T` sends PUT, add `-X POST`" if request.method == "PUT" and "POST" in allowed else "see /docs"
            problem = ProblemError("method_not_allowed", f"this path supports {allowed}; {hint}", error.headers)
        elif error.status_code == HTTPStatus.NOT_FOUND:
            problem = ProblemError("not_found", "this path does not exist; see /docs")
        else:
            problem = ProblemError("bad_request", str(error.detail), error.headers)
        return problem_response(request, problem)
