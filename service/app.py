"""create_app: the service put together; models are loaded in its lifespan, never at import."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi_offline import FastAPIOffline
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core import __version__
from core.errors import InputError
from service.api import problems
from service.api.problems import Problem
from service.api.routes import KEYED, keyed, router
from service.evaluation.manager import Evaluations
from service.evaluation.runner import Scoring
from service.evaluation.store import JobFiles
from service.inference.registry import Models
from service.inference.service import Segmenting
from service.metrics import Telemetry
from service.middleware.access import Guard
from service.settings import Settings
from service.web import ui

log = logging.getLogger("service")


OnUnusable = Callable[[str, int], None]
# of its replies, for pages of other sites
EXPOSED = ["Segment-Model", "Segment-Digest", "Segment-Backend", "Server-Timing", "X-Request-ID", "Location", "Retry-After"]


def create_app(settings: Settings, on_unusable: OnUnusable = lambda *_: None) -> FastAPI:
    """The application for these settings.

    `on_unusable` is called with the reason and an exit code where the default model can't answer, for the caller to
    end the process. Raises InputError at once where the settings leave nothing to serve or nowhere to write.
    """
    models = Models(settings)
    files = JobFiles(settings.state / "evaluations")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.segmenting = Segmenting(settings, len(models.devices), app.state.telemetry)
        scoring = Scoring(app.state.segmenting.workers, app.state.segmenting.admission.quiet_s)
        app.state.evaluations = Evaluations(files, settings.data, scoring)
        app.state.evaluations.restore()
        log.info("serving %s; %s where a request names none", ", ".join(models.models), models.default)
        warming = asyncio.create_task(_warm(app, models, on_unusable))
        try:
            yield
        finally:
            warming.cancel()
            await run_in_threadpool(app.state.evaluations.close)
            await run_in_threadpool(app.state.segmenting.close)

    app = FastAPIOffline(
        title="Street-scene segmentation",
        version=__version__,
        summary="A photograph in, its mask out.",
        redoc_url=None,
        redirect_slashes=False,  # behind a proxy it would lead to another scheme and path, and the picture be sent again there
        lifespan=lifespan,
    )
    app.state.models = models
    app.state.telemetry = Telemetry()
    app.state.ready = False
    app.state.reloading = asyncio.Lock()
    app.include_router(router)
    app.include_router(keyed, **(KEYED if settings.api_keys else {}))
    ui.install(app)
    problems.install(app)
    app.add_middleware(Guard, settings=settings)
    app.add_middleware(RequestIds)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=EXPOSED,
        )
    return app


async def _warm(app: FastAPI, models: Models, on_unusable: OnUnusable) -> None:
    """Load the default model and let it answer once; only then is the service ready."""
    try:
        loaded = await models.load()
        await app.state.segmenting.warm(loaded)
    except InputError as error:
        on_unusable(str(error), 2)
    except Problem:
        on_unusable(str(models.models[models.default].error), 1)
    except Exception as error:
        log.exception("the default model could not answer")
        on_unusable(f"the default model could not answer ({type(error).__name__})", 1)
    else:
        app.state.ready = True
        log.info("ready: %s (%s) on %s", loaded.name, loaded.segmenter.backend.name, ", ".join(models.devices))
        await run_in_threadpool(models.inspect)


class RequestIds:
    """Gives every request an id that its reply's header, its problem and the log carry; a fault becomes a problem."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        begun = False

        async def send_with_id(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"  # a browser must not guess at what goes out
                headers["X-Frame-Options"] = "DENY"  # a page of another site must not lead clicks to it
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except asyncio.CancelledError:  # the service was told to stop, and this took longer than it waits for
            if not begun:
                await problems.reply(Request(scope), problems.shutting_down())(scope, receive, send_with_id)
        except ClientDisconnect:  # nobody is there to be told
            return
        except Exception:
            log.exception("request %s failed", request_id)
            if begun:
                raise
            problem = Problem("internal_error", "the service failed on this request; its log holds the reason")
            await problems.reply(Request(scope), problem)(scope, receive, send_with_id)
