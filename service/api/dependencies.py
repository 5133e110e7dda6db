"""FastAPI dependencies: the parts of the service that endpoints use. They are async, so that no thread is needed."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Depends, Request

from service.evaluation.manager import EvaluationManager
from service.evaluation.store import Job
from service.inference.registry import ModelRegistry
from service.inference.service import InferenceService
from service.metrics import Metrics


async def get_registry(request: Request) -> ModelRegistry:
    """Return the model registry."""
    registry: ModelRegistry = request.app.state.registry
    return registry


async def get_inference(request: Request) -> InferenceService:
    """Return the inference service."""
    inference: InferenceService = request.app.state.inference
    return inference


async def get_evaluations(request: Request) -> EvaluationManager:
    """Return the evaluation manager."""
    evaluations: EvaluationManager = request.app.state.evaluations
    return evaluations


async def get_metrics(request: Request) -> Metrics:
    """Return the metrics."""
    metrics: Metrics = request.app.state.metrics
    return metrics


async def get_reload_lock(request: Request) -> asyncio.Lock:
    """Return the lock that serializes reloads of models."""
    lock: asyncio.Lock = request.app.state.reload_lock
    return lock


async def is_ready(request: Request) -> bool:
    """Return whether the default model has been loaded and has segmented an image."""
    ready: bool = request.app.state.ready
    return ready


RegistryDep = Annotated[ModelRegistry, Depends(get_registry)]
InferenceDep = Annotated[InferenceService, Depends(get_inference)]
EvaluationsDep = Annotated[EvaluationManager, Depends(get_evaluations)]
MetricsDep = Annotated[Metrics, Depends(get_metrics)]
ReloadLockDep = Annotated[asyncio.Lock, Depends(get_reload_lock)]
ReadyDep = Annotated[bool, Depends(is_ready)]


async def get_job(evaluations: EvaluationsDep, job_id: str) -> Job:
    """Return the evaluation that the path names. Raises ProblemError 404 `unknown_evaluation`."""
    return await evaluations.run_io(evaluations.job, job_id)


JobDep = Annotated[Job, Depends(get_job)]
