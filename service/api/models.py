"""`/models`: which models are served, and reloading them."""

from __future__ import annotations

import logging

from fastapi import APIRouter

from service.api.dependencies import InferenceDep, RegistryDep, ReloadLockDep
from service.api.problems import ProblemError, problem_responses
from service.api.roles import requires_role
from service.api.schemas import ModelInfo, ModelList
from service.inference.registry import ModelRegistry

log = logging.getLogger("service")
router = APIRouter()


@router.get("/models")
@requires_role("segment")
async def list_models(registry: RegistryDep) -> ModelList:
    """List all models: architecture, classes with colors, scores, digest, whether they are loaded, and their errors."""
    return ModelList(default=registry.default, models=[_describe(registry, name) for name in registry.models])


@router.post("/models/{name}/reload", responses=problem_responses("unknown_model", "model_unavailable"))
@requires_role("admin")
async def reload_model(name: str, registry: RegistryDep, inference: InferenceDep, reload_lock: ReloadLockDep) -> ModelInfo:
    """Read the model's file again and serve it. Requests in flight finish with the previous weights; if the new file
    can't be used, the previous weights stay in use."""
    async with reload_lock:  # If two reloads overlap, the later one must win.
        model = await registry.reload(name)
        try:
            await inference.warm_up(model)
        except Exception:
            log.exception("the reloaded model %s failed its first inference", name)
            detail = f"the model {name} failed its first inference; the previous one stays in use"
            raise ProblemError("model_unavailable", detail) from None
        registry.activate(model)
    return _describe(registry, name)


def _describe(registry: ModelRegistry, name: str) -> ModelInfo:
    return ModelInfo.create(registry.models[name], registry.find_loaded(name))
