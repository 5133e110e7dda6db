"""`POST /segment`: an image in, its segmentation out; or several images in one form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from service.api.batch import BatchResponse, describe_position
from service.api.dependencies import InferenceDep, MetricsDep, RegistryDep
from service.api.multipart import MAX_PARTS
from service.api.problems import ProblemError, problem_responses
from service.api.request_body import Upload, read_uploads
from service.api.responses import CLIENT_CLOSED_REQUEST, TrackedResponse
from service.api.roles import requires_role
from service.api.schemas import SegmentParameters
from service.inference.admission import RequestSlot
from service.inference.pipeline import EncodedImage, OutputOptions
from service.inference.registry import LoadedModel
from service.inference.service import InferenceService
from service.inference.timing import Timing
from service.metrics import Metrics
from service.middleware.disconnect import ClientDisconnected, cancel_on_disconnect

PRINTABLE_ASCII = "".join(chr(code) for code in range(32, 127) if chr(code) != "%")

REQUEST_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "minItems": 1,
                            "maxItems": MAX_PARTS,
                            "description": "JPEG, PNG or WebP; one image, or one part for each of several",
                        }
                    },
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the mask, the labels, the overlay or the JSON description; of several images, a ZIP archive or a JSON"
        " array in the order of the images",
        "content": {"image/png": {}, "image/jpeg": {}, "application/json": {}, "application/zip": {}},
    },
    **problem_responses(
        "malformed_body", "too_many_files", "unknown_model", "request_timeout", "too_large", "content_encoding",
        "unsupported_image_format", "unsupported_media_type", "animated_image", "corrupt_image", "empty_file",
        "invalid_parameter", "no_file", "deadline_exceeded", "model_unavailable", "overloaded", "shutting_down",
    ),
}  # fmt: skip

router = APIRouter()


@router.post("/segment", response_class=Response, openapi_extra=REQUEST_BODY, responses=RESPONSES)
@requires_role("segment")
async def segment(
    request: Request,
    parameters: Annotated[SegmentParameters, Query()],
    registry: RegistryDep,
    inference: InferenceDep,
    metrics: MetricsDep,
) -> Response:
    """Segment one image, which is a multipart part named `file` or the body itself, or several parts named `file`."""
    name, admission = parameters.model or registry.default, inference.admission
    options = parameters.options
    try:
        with metrics.count_request(name if name in registry.models else "unknown"), admission.track_upload() as reserve_bytes:
            # What is known from the headers is checked before the body is read, so that the client need not send it.
            if registry.find_loaded(name) is None:
                registry.check_usable(name)
            admission.check_capacity(options.multi_pass)
            uploads = await read_uploads(request, inference.settings.max_bytes, reserve_bytes)
            with admission.admit(options.multi_pass) as slot:
                model = registry.get_if_loaded(name)
                if model is None:
                    model = await cancel_on_disconnect(request, slot.run_before_deadline(registry.load(name)))
                segmenting = _segment_images(uploads, model, options, slot, inference, metrics, reserve_bytes)
                result, timing = await cancel_on_disconnect(request, segmenting)
    except (ClientDisconnected, ClientDisconnect):
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    headers = {
        "Segment-Model": quote(model.name, safe=PRINTABLE_ASCII),  # Headers are Latin-1; a name may be any Unicode.
        "Segment-Digest": model.digest,
        "Segment-Backend": model.segmenter.backend.name,
        "Server-Timing": timing.header(),
    }
    return TrackedResponse(result.content, result.media_type, headers, admission)


async def _segment_images(
    uploads: list[Upload],
    model: LoadedModel,
    options: OutputOptions,
    slot: RequestSlot,
    inference: InferenceService,
    metrics: Metrics,
    reserve_bytes: Callable[[int], None],
) -> tuple[EncodedImage, Timing]:
    """Return the result of one image, or the combined results of several, and the duration of each stage.

    Several images are segmented one after another, in the slot of their request: it occupies no more than any other request.

    Args:
        uploads: The images, which are removed from the list, so that each is released after decoding.
        reserve_bytes: Called with the size of each of several results; may raise ProblemError.

    Raises:
        ProblemError: An image is not usable, or the inference of the last one did not begin before the deadline; of several
            images, the error names the first that failed.
    """
    total, timing = len(uploads), Timing()
    batch = BatchResponse(as_json=options.output == "json")
    for number in range(1, total + 1):
        upload = uploads.pop(0)
        segmentation = inference.create_request(upload.content, model, options, slot)
        name = upload.name
        del upload  # The pipeline releases the content after decoding.
        try:
            result = await segmentation.run()
        except ProblemError as error:
            if total == 1:
                raise
            detail = f"{describe_position(number, total)}: {error.detail}"
            raise ProblemError(error.code, detail, error.headers) from None
        metrics.observe_image(model.name, segmentation.timing)
        timing.add_all(segmentation.timing)
        if total == 1:
            return result, timing
        reserve_bytes(len(result.content))
        await run_in_threadpool(batch.add, name, result)
    return await run_in_threadpool(batch.finish), timing
