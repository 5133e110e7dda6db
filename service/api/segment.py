"""`POST /segment`: an image in, its segmentation out."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from starlette.requests import ClientDisconnect

from service.api.dependencies import InferenceDep, MetricsDep, RegistryDep
from service.api.problems import problem_responses
from service.api.request_body import read_image_body
from service.api.responses import CLIENT_CLOSED_REQUEST, TrackedResponse
from service.api.roles import requires_role
from service.api.schemas import SegmentParameters
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
                    "properties": {"file": {"type": "string", "format": "binary", "description": "JPEG, PNG or WebP"}},
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the mask, the labels, the overlay or the JSON description",
        "content": {"image/png": {}, "image/jpeg": {}, "application/json": {}},
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
    """Segment one image: a multipart part named `file`, or the image itself as the body."""
    name, admission = parameters.model or registry.default, inference.admission
    options = parameters.options
    try:
        with metrics.count_request(name if name in registry.models else "unknown"), admission.track_upload() as reserve_bytes:
            # What is known from the headers is checked before the body is read, so that the client need not send it.
            if registry.find_loaded(name) is None:
                registry.check_usable(name)
            admission.check_capacity(options.multi_pass)
            body = await read_image_body(request, inference.settings.max_bytes, reserve_bytes)
            with admission.admit(options.multi_pass) as slot:
                model = registry.get_if_loaded(name)
                if model is None:
                    model = await cancel_on_disconnect(request, slot.run_before_deadline(registry.load(name)))
                segmentation = inference.create_request(body, model, options, slot)
                del body  # The pipeline releases it after decoding.
                image = await cancel_on_disconnect(request, segmentation.run())
    except (ClientDisconnected, ClientDisconnect):
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    metrics.observe_stages(segmentation.timing)
    headers = {
        "Segment-Model": quote(model.name, safe=PRINTABLE_ASCII),  # Headers are Latin-1; a name may be any Unicode.
        "Segment-Digest": model.digest,
        "Segment-Backend": model.segmenter.backend.name,
        "Server-Timing": segmentation.timing.header(),
    }
    return TrackedResponse(image.content, image.media_type, headers, admission)
