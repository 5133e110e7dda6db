"""Probes and metrics for operators: `/healthz`, `/readyz` and `/metrics`."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from service.api.dependencies import MetricsDep, ReadyDep, RegistryDep
from service.api.problems import ProblemError, problem_responses
from service.api.roles import requires_role
from service.api.schemas import Status
from service.metrics import CONTENT_TYPE

router = APIRouter()
metrics_router = APIRouter()


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz")
@requires_role(None)
async def check_health() -> Status:
    """Report that the process responds."""
    return Status(status="alive")


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses=problem_responses("not_ready"))
@requires_role(None)
async def check_readiness(ready: ReadyDep) -> Status:
    """Report that the default model has segmented an image."""
    if not ready:
        raise ProblemError("not_ready", "the default model is being loaded; retry in a second", {"Retry-After": "1"})
    return Status(status="ready")


@metrics_router.get("/metrics", response_class=PlainTextResponse)
@requires_role("admin")
async def read_metrics(registry: RegistryDep, metrics: MetricsDep) -> Response:
    """Return all metrics in the Prometheus text format."""
    metrics.set_loaded_models((model.name, model.segmenter.backend.name, model.digest) for model in registry.loaded())
    return Response(metrics.render(), media_type=CONTENT_TYPE)
