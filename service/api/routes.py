"""The endpoints; each is a thin sentence on top of the parts that do the work."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response, Security
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.security import HTTPBearer
from starlette.requests import ClientDisconnect

from core.evaluation.report import Report
from core.inference.segmenter import PLAIN, How
from service.api.problems import CODES, Problem
from service.api.request_body import read_picture
from service.api.responses import Download
from service.evaluation.manager import Evaluations
from service.evaluation.store import Job
from service.inference.pipeline import Format, Output, Wish
from service.inference.registry import Models
from service.inference.service import Segmenting
from service.metrics import CONTENT_TYPE, Telemetry
from service.middleware.disconnect import ClientGone, unless_gone

log = logging.getLogger("service")
CLIENT_GONE = 499  # nobody reads it but the log
PRINTABLE = "".join(chr(code) for code in range(32, 127) if chr(code) != "%")

ModelName = Annotated[
    str | None, Query(description="name of a model, as GET /models lists them; the default one where not told")
]

PICTURE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary", "description": "JPEG, PNG or WebP"}},
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def _errors(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The documented error replies of an endpoint."""
    by_status: dict[int | str, list[str]] = {}
    for code in codes:
        by_status.setdefault(CODES[code], []).append(code)
    return {
        status: {"description": "code " + " or ".join(known), "content": {"application/problem+json": {}}}
        for status, known in by_status.items()
    }


router = APIRouter()  # what anybody may ask
keyed = APIRouter()  # what takes a key, where the service asks for one
# the guard looks at keys before anything is read; here they are told of, so that /docs has a place to enter one
KEYED: dict[str, Any] = {
    "dependencies": [Security(HTTPBearer(auto_error=False, description="a key of SEGMENT_API_KEYS"))],
    "responses": _errors("no_key", "wrong_role"),
}

PICTURE_ERRORS = (
    "malformed_body", "too_many_files", "unknown_model", "too_large", "content_encoding", "not_an_image",
    "unsupported_media_type", "animated_image", "broken_image", "empty_file", "invalid_parameter", "no_file", "deadline_passed",
    "model_unusable", "overloaded", "slow_body", "shutting_down",
)  # fmt: skip


@keyed.post(
    "/segment",
    response_class=Response,
    openapi_extra=PICTURE_BODY,
    responses={
        200: {
            "description": "the mask, the labels, the overlay or their description",
            "content": {"image/png": {}, "image/jpeg": {}, "application/json": {}},
        },
        **_errors(*PICTURE_ERRORS),
    },
)
async def segment(
    request: Request,
    model: ModelName = None,
    output: Annotated[Output, Query(description="mask: indexed PNG; labels: grey PNG; overlay; json: run lengths")] = "mask",
    format: Annotated[Format, Query(description="of an overlay")] = "jpeg",
    resolution: Annotated[
        Literal["network", "native"], Query(description="native: at the photograph's own scale, by overlapping tiles")
    ] = "network",
    flip: Annotated[bool, Query(description="average with the mirror image: twice the time")] = False,
) -> Response:
    """Segment one photograph: a multipart part named `file`, or the picture itself as the body."""
    models: Models = request.app.state.models
    segmenting: Segmenting = request.app.state.segmenting
    telemetry: Telemetry = request.app.state.telemetry
    name, how = model or models.default, How(resolution == "native", flip)
    try:
        with telemetry.counted(name if name in models.models else "unknown"), segmenting.admission.uploading() as hold:
            data = await read_picture(request, segmenting.settings.max_bytes, segmenting.admission.require_room, hold)
            with segmenting.admission.entered(long=how != PLAIN) as ticket:
                loaded = models.ready(model)
                if loaded is None:
                    loaded = await unless_gone(request, ticket.in_time(models.load(model)))
                reply = segmenting.segment(data, loaded, Wish(output, format, how), ticket)
                del data  # the pipeline lets go of it as soon as it is decoded
                (content, media_type), timing = await unless_gone(request, reply)
    except (ClientGone, ClientDisconnect):
        return Response(status_code=CLIENT_GONE)
    headers = {
        "Segment-Model": quote(loaded.name, safe=PRINTABLE),  # a header is Latin-1, a folder's name may be anything
        "Segment-Digest": loaded.digest,
        "Segment-Backend": loaded.segmenter.backend.name,
        "Server-Timing": timing.header(),
    }
    return Download(content, media_type, headers, segmenting.admission)


@keyed.get("/models")
async def models(request: Request) -> JSONResponse:
    """Every model: architecture, classes with colours, scores, digest, whether it is loaded, what is wrong with it."""
    return JSONResponse(request.app.state.models.describe())


@keyed.post("/models/{name}/reload", responses=_errors("unknown_model", "model_unusable"))
async def reload(request: Request, name: str) -> JSONResponse:
    """Serve what the model's file holds now. Requests under way end with what they began with; where the new file can't
    be used, so do those that follow."""
    models: Models = request.app.state.models
    async with request.app.state.reloading:  # of two at once the later one rules
        fresh = await models.read_again(name)
        try:
            await request.app.state.segmenting.warm(fresh)
        except Exception:
            log.exception("the model %s, read again, could not answer", name)
            raise Problem("model_unusable", f"the model {name} could not answer; the one before goes on") from None
        models.replace(fresh)
    return JSONResponse(models.describe_one(name))


@keyed.post(
    "/evaluate",
    status_code=202,
    responses={
        200: {"description": "the report, where wait=true", "model": Report},
        202: {"description": "started; Location names it", "model": Job},
        **_errors("unknown_model", "unknown_split", "evaluation_running", "labels_differ", "no_data", "invalid_parameter",
                  "evaluation_cancelled", "evaluation_failed", "model_unusable", "shutting_down"),
    },
)  # fmt: skip
async def start_evaluation(
    request: Request,
    model: ModelName = None,
    split: Annotated[str, Query(description="split of the service's data", max_length=100)] = "val",
    wait: Annotated[bool, Query(description="answer with the report when it is done")] = False,
) -> JSONResponse:
    """Score the served artefact on a split of the service's data; users' pictures go first."""
    models: Models = request.app.state.models
    evaluations: Evaluations = request.app.state.evaluations
    dataset = await evaluations.open(split)  # first: no model is loaded for nothing
    loaded = await models.load(model)
    job = await evaluations.on_disk(evaluations.start, loaded, dataset, partial(models.loading, loaded.name))
    del loaded  # whoever waits below holds no model
    where = {"Location": f"/evaluate/{job.id}"}
    if wait:
        report = await evaluations.wait(job)
        return JSONResponse(report.model_dump(mode="json"), headers=where)
    return JSONResponse(job.model_dump(mode="json"), status_code=202, headers=where)


@keyed.get("/evaluate")
async def list_evaluations(request: Request) -> Response:
    """All evaluations, the newest first, without their reports."""
    evaluations: Evaluations = request.app.state.evaluations

    def told() -> str:  # off the event loop: a thousand of them take it 30 ms
        jobs = (job.model_dump_json(exclude={"report"}) for job in evaluations.jobs(look=True))
        return f'{{"evaluations":[{",".join(jobs)}]}}'

    return Response(await evaluations.on_disk(told), media_type="application/json")


@keyed.get("/evaluate/{job_id}", response_model=Job, responses=_errors("unknown_evaluation"))
async def get_evaluation(request: Request, job_id: str) -> Job:
    """State, progress and, once done, the report."""
    evaluations: Evaluations = request.app.state.evaluations
    return await evaluations.on_disk(evaluations.job, job_id)


@keyed.get(
    "/evaluate/{job_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}, **_errors("unknown_evaluation")},
)
async def follow_evaluation(request: Request, job_id: str) -> StreamingResponse:
    """Server-sent events: the evaluation without its report, now, at every progress (or after 15 s without any), and at its
    end; `event` is its state."""
    evaluations: Evaluations = request.app.state.evaluations
    job = await evaluations.on_disk(evaluations.job, job_id)

    async def lines() -> AsyncIterator[str]:
        async for now in evaluations.events(job):
            yield f"event: {now.state}\ndata: {now.model_dump_json(exclude={'report'})}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


@keyed.delete("/evaluate/{job_id}", status_code=204, responses=_errors("unknown_evaluation", "evaluation_finished"))
async def cancel_evaluation(request: Request, job_id: str) -> Response:
    """End an evaluation that has not ended."""
    evaluations: Evaluations = request.app.state.evaluations
    await evaluations.cancel(await evaluations.on_disk(evaluations.job, job_id))
    return Response(status_code=204)


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz")
async def alive() -> dict[str, str]:
    """The process answers."""
    return {"status": "alive"}


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses=_errors("not_ready"))
async def ready(request: Request) -> dict[str, str]:
    """The default model has answered a picture."""
    if not request.app.state.ready:
        raise Problem("not_ready", "the default model is being loaded; ask again in a second", {"Retry-After": "1"})
    return {"status": "ready"}


@keyed.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Counters and times, for Prometheus."""
    models: Models = request.app.state.models
    telemetry: Telemetry = request.app.state.telemetry
    telemetry.model.clear()
    for loaded in models.loaded():
        telemetry.model.labels(loaded.name, loaded.segmenter.backend.name, loaded.digest).set(1)
    return Response(telemetry.text(), media_type=CONTENT_TYPE)
