"""`/evaluate`: evaluations of served models on the service's dataset, as background jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from core.data.datasets import DirectoryDataset
from core.evaluation.report import Report
from service.api.dependencies import EvaluationsDep, InferenceDep, JobDep, RegistryDep
from service.api.problems import problem_responses
from service.api.responses import CLIENT_CLOSED_REQUEST
from service.api.roles import requires_role
from service.api.schemas import DatasetInfo, EvaluationList, ModelName
from service.evaluation.image_counts import ReportDifference
from service.evaluation.manager import EvaluationManager
from service.evaluation.store import Job
from service.inference.registry import ModelRegistry
from service.middleware.disconnect import ClientDisconnected, cancel_on_disconnect

MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}  # by IMAGE_SUFFIXES
EXAMPLE_HEADERS = {"Cache-Control": "private, max-age=3600"}  # Only the browser that sent the key may store it.
EXAMPLE_PROBLEMS = problem_responses(
    "unknown_evaluation", "unknown_example", "unknown_split", "dataset_unavailable", "too_large", "invalid_parameter"
)
ExampleIndex = Annotated[int, Path(ge=0, description="`index` of an example in the report")]

router = APIRouter()


@router.post(
    "/evaluate",
    status_code=202,
    responses={
        200: {"description": "the report, if wait=true", "model": Report},
        202: {"description": "started; the Location header is its URL", "model": Job},
        **problem_responses(
            "unknown_model", "unknown_split", "evaluation_running", "label_space_mismatch", "dataset_unavailable",
            "evaluation_cancelled", "invalid_parameter", "evaluation_failed", "model_unavailable", "shutting_down",
        ),
    },
)  # fmt: skip
@requires_role("admin")
async def start_evaluation(
    request: Request,
    registry: RegistryDep,
    evaluations: EvaluationsDep,
    model: ModelName = None,
    split: Annotated[str, Query(description="split of the service's dataset", max_length=100)] = "val",
    wait: Annotated[bool, Query(description="respond with the report when the evaluation has finished")] = False,
) -> Response:
    """Evaluate the served weights of a model on a split of the service's dataset; users' requests have priority.

    If the client disconnects while it waits, the evaluation continues.
    """
    dataset = await evaluations.open(split)  # Checked first, so that no model is loaded in vain.
    job = await _start(registry, evaluations, model, dataset)
    headers = {"Location": f"/evaluate/{job.id}"}
    if wait:
        try:
            report = await cancel_on_disconnect(request, evaluations.wait(job))
        except ClientDisconnected:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return JSONResponse(report.model_dump(mode="json"), headers=headers)
    return JSONResponse(job.model_dump(mode="json"), status_code=202, headers=headers)


async def _start(registry: ModelRegistry, evaluations: EvaluationManager, model: str | None, dataset: DirectoryDataset) -> Job:
    """Start an evaluation. The only reference to the loaded model is here, so that a request that waits holds none."""
    loaded = await registry.load(model)
    return await evaluations.run_io(evaluations.start, loaded, dataset, partial(registry.submit_load, loaded.name))


@router.get("/dataset", responses=problem_responses("dataset_unavailable"))
@requires_role("admin")
async def describe_dataset(evaluations: EvaluationsDep) -> DatasetInfo:
    """List the splits of the service's dataset."""
    return DatasetInfo(splits=await evaluations.splits())


@router.get("/evaluate", responses={200: {"model": EvaluationList}})
@requires_role("admin")
async def list_evaluations(evaluations: EvaluationsDep) -> Response:
    """List all evaluations without their reports, newest first."""

    def render() -> str:  # In a thread, because a thousand jobs take 30 ms.
        jobs = (job.model_dump_json(exclude={"report"}) for job in evaluations.list_jobs(refresh=True))
        return f'{{"evaluations":[{",".join(jobs)}]}}'

    return Response(await evaluations.run_io(render), media_type="application/json")


@router.get("/evaluate/{job_id}", responses=problem_responses("unknown_evaluation"))
@requires_role("admin")
async def get_evaluation(job: JobDep) -> Job:
    """Return the state and the progress of an evaluation, and its report if it is done."""
    return job


@router.get(
    "/evaluate/{job_id}/difference",
    responses=problem_responses("unknown_evaluation", "not_comparable", "invalid_parameter"),
)
@requires_role("admin")
async def compare_evaluations(
    evaluations: EvaluationsDep,
    job: JobDep,
    base: Annotated[str, Query(description="id of the evaluation whose scores are subtracted", max_length=100)],
) -> ReportDifference:
    """Subtract the scores of another evaluation on the same images, with paired 95 % intervals."""
    return await evaluations.compare(job, await evaluations.run_io(evaluations.job, base))


@router.get(
    "/evaluate/{job_id}/examples/{index}/image",
    response_class=Response,
    responses={
        200: {"description": "the file of the image", "content": {media_type: {} for media_type in MEDIA_TYPES.values()}},
        **EXAMPLE_PROBLEMS,
    },
)
@requires_role("admin")
async def get_example_image(evaluations: EvaluationsDep, inference: InferenceDep, job: JobDep, index: ExampleIndex) -> Response:
    """Return an image of the dataset that the report lists in `examples`."""
    content, suffix = await evaluations.example_image(job, index, inference.settings.max_bytes)
    return Response(content, media_type=MEDIA_TYPES[suffix], headers=EXAMPLE_HEADERS)


@router.get(
    "/evaluate/{job_id}/examples/{index}/label",
    response_class=Response,
    responses={
        200: {"description": "an indexed PNG with the pixel values of a mask", "content": {"image/png": {}}},
        **EXAMPLE_PROBLEMS,
    },
)
@requires_role("admin")
async def get_example_label(evaluations: EvaluationsDep, job: JobDep, index: ExampleIndex) -> Response:
    """Return the label of such an image; void pixels are 255."""
    return Response(await evaluations.example_label(job, index), media_type="image/png", headers=EXAMPLE_HEADERS)


@router.get(
    "/evaluate/{job_id}/events",
    response_class=EventSourceResponse,
    responses=problem_responses("unknown_evaluation"),
)
@requires_role("admin")
async def stream_evaluation(evaluations: EvaluationsDep, job: JobDep) -> AsyncIterator[ServerSentEvent]:
    """Send the evaluation without its report as a server-sent event: now, after every progress, and at its end; `event` is
    the state. After 15 s without an event, a comment keeps the connection open."""
    async for current in evaluations.events(job):
        yield ServerSentEvent(event=current.state, raw_data=current.model_dump_json(exclude={"report"}))


@router.delete("/evaluate/{job_id}", status_code=204, responses=problem_responses("unknown_evaluation", "evaluation_finished"))
@requires_role("admin")
async def cancel_evaluation(evaluations: EvaluationsDep, job: JobDep) -> None:
    """Cancel an evaluation that has not finished."""
    await evaluations.cancel(job)
