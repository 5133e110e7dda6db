"""Assembly of the application; models are loaded in its lifespan, never at import."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from anyio import move_on_after, to_thread
from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware

from core import __version__
from core.errors import InputError
from service.api import evaluations, health, models, segment
from service.api.problems import ProblemError, add_exception_handlers, problem_responses
from service.evaluation.manager import EvaluationManager
from service.evaluation.runner import EvaluationRunner
from service.evaluation.store import JobStore
from service.inference.registry import ModelRegistry
from service.inference.service import InferenceService
from service.metrics import Metrics
from service.middleware.access_control import AccessMiddleware
from service.middleware.request_context import RequestContextMiddleware
from service.middleware.unread_body import UnreadBodyMiddleware
from service.settings import Settings
from service.web import ui

log = logging.getLogger("service")

StartupFailureHandler = Callable[[str, int], None]

# for the running evaluation to end; without a limit, a drive of SEGMENT_STATE that hangs would keep the process alive
CLOSE_TIMEOUT_S = 1.5

PUBLIC_ROUTERS = (health.router, ui.router)
PROTECTED_ROUTERS = (segment.router, models.router, evaluations.router, health.metrics_router)
# Describes in /docs what AccessMiddleware enforces before FastAPI sees the request.
AUTH_OPENAPI: dict[str, Any] = {
    "dependencies": [Security(HTTPBearer(auto_error=False, description="a key of SEGMENT_API_KEYS"))],
    "responses": problem_responses("unauthorized", "insufficient_scope"),
}
CORS_EXPOSE_HEADERS = [
    "Segment-Model",
    "Segment-Digest",
    "Segment-Backend",
    "Server-Timing",
    "X-Request-ID",
    "Location",
    "Retry-After",
]


def create_app(settings: Settings, on_startup_failure: StartupFailureHandler = lambda *_: None) -> FastAPI:
    """Return the application for these settings.

    Args:
        settings: The settings.
        on_startup_failure: Called with the reason and an exit code if the default model can't be used; the caller should
            end the process.

    Raises:
        InputError: There is no model to serve, or the directory for evaluations is not writable.
    """
    registry = ModelRegistry(settings)
    store = JobStore(settings.state / "evaluations")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        inference = InferenceService(settings, len(registry.devices), app.state.metrics)
        runner = EvaluationRunner(inference.workers, inference.admission.idle_seconds)
        manager = EvaluationManager(store, settings.data, runner)
        app.state.inference, app.state.evaluations = inference, manager
        manager.load_jobs()
        checking = asyncio.create_task(manager.check_dataset())
        log.info("models: %s; default: %s", ", ".join(registry.models), registry.default)
        loading = asyncio.create_task(_load_default_model(app, on_startup_failure))
        try:
            yield
        finally:
            loading.cancel()
            checking.cancel()
            with move_on_after(CLOSE_TIMEOUT_S):
                await to_thread.run_sync(manager.close, abandon_on_cancel=True)
            await run_in_threadpool(inference.close)

    app = FastAPIOffline(
        title="Street-scene segmentation",
        version=__version__,
        summary="An image in, its segmentation mask out.",
        redoc_url=None,
        redirect_slashes=False,  # Behind a proxy the redirect would have the wrong scheme, and the client would upload twice.
        lifespan=lifespan,
    )
    app.state.registry = registry
    app.state.metrics = Metrics()
    app.state.ready = False
    app.state.reload_lock = asyncio.Lock()
    for router in PUBLIC_ROUTERS:
        app.include_router(router)
    for router in PROTECTED_ROUTERS:
        app.include_router(router, **(AUTH_OPENAPI if settings.api_keys else {}))
    ui.mount_static_files(app)
    add_exception_handlers(app)
    # The middleware that is added last is the outermost one.
    routes = [route for router in (*PUBLIC_ROUTERS, *PROTECTED_ROUTERS) for route in router.routes]
    app.add_middleware(AccessMiddleware, settings=settings, routes=routes)
    app.add_middleware(RequestContextMiddleware)
    app.add_middleware(UnreadBodyMiddleware)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=CORS_EXPOSE_HEADERS,
        )
    return app


async def _load_default_model(app: FastAPI, on_startup_failure: StartupFailureHandler) -> None:
    """Load the default model and run it once; then the service is ready."""
    registry: ModelRegistry = app.state.registry
    try:
        model = await registry.load()
        await app.state.inference.warm_up(model)
    except InputError as error:
        on_startup_failure(str(error), 2)
    except ProblemError:
        on_startup_failure(str(registry.models[registry.default].error), 1)
    except Exception as error:
        log.exception("the default model failed its first inference")
        on_startup_failure(f"the default model failed its first inference ({type(error).__name__})", 1)
    else:
        app.state.ready = True
        log.info("ready: %s (%s) on %s", model.name, model.segmenter.backend.name, ", ".join(registry.devices))
        await registry.read_all_metadata()
