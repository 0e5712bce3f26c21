"""`POST /explain`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import Path, Request, Response
from pydantic import TypeAdapter

from service.errors import NotAcceptableError
from service.explaining.command import ExplainInputs
from service.explaining.measurements.registry import measurements_of, options
from service.explaining.outcome import ExplainOutcome
from service.http.access import EXPLAIN, OPEN
from service.http.access_routes import AccessRouter
from service.http.application import application_of
from service.routes.accept import choose
from service.routes.answers import image_explanation, timings
from service.routes.bodies.reading import JSON, MULTIPART, read_request
from service.routes.requests import TIMEOUT_PARAMETER, accept
from service.routes.writing import Place, RawPart, json_answer, multipart_answer
from service.schemas.answers import ExplainProgress, ExplainResponse
from service.schemas.media_types import ENDINGS, HEATMAP_TYPES, PICTURE_TYPES, HeatmapType
from service.schemas.requests import OutputOptions
from service.schemas.targets import Targets

router = AccessRouter(needs=EXPLAIN, tags=["explain"])
# Open, so that reading progress does not count for a key. A random request id protects this little
# information well enough.
progress_router = AccessRouter(needs=OPEN, tags=["explain"])

RequestId = Annotated[
    str,
    Path(
        max_length=128,
        description="The `X-Request-ID` that the request was sent with.",
        examples=["6f1c3f0a8b2e4c1d9a7e5b3c2d1f0e9a"],
    ),
]

_MIXED = "multipart/mixed"
_OVERLAYS = tuple(PICTURE_TYPES.values())
_OFFERED = (JSON, MULTIPART, _MIXED, *_OVERLAYS)
# The part of a multipart answer that holds everything but the pictures.
_ANSWER = "answer"

_TARGETS_SCHEMA = TypeAdapter(Targets).json_schema(ref_template="#/components/schemas/{model}")
# The JSON body has already added them to the components.
del _TARGETS_SCHEMA["$defs"]
# Parts of every multipart body, beside the picture.
TEXT_PARTS: dict[str, Any] = {
    "prompts": {
        "type": "array",
        "minItems": 1,
        "items": {"type": "string"},
        "description": "A text to explain the picture for; repeat the field for several prompts. "
        "Give prompts, targets, or both.",
        "example": ["a cat", "a dog"],
    },
    "targets": {
        **_TARGETS_SCHEMA,
        "description": "Targets as JSON, all in one field or each in one of its own. Give prompts, "
        "targets, or both.",
        "example": [{"type": "text", "text": "a cat"}],
    },
    "options": {
        "$ref": "#/components/schemas/ExplainOptions",
        "description": "Options of the computation, as JSON.",
        "example": {"layers": 2},
    },
    "output": {
        "$ref": "#/components/schemas/OutputOptions",
        "description": "Options of the answer, as JSON.",
        "example": {"heatmap": "none"},
    },
}
TEXT_ENCODING: dict[str, Any] = {
    name: {"contentType": JSON} for name in ("targets", "options", "output")
}

_MULTIPART_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["image"],
    "additionalProperties": False,
    "properties": {
        "image": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "string", "format": "binary"},
            "description": "The picture as a file; repeat the field for several pictures.",
        },
        "model": {
            "type": "string",
            "description": "Id of a model from `/models`, or its name as in the settings.",
            "example": "starter",
        },
        **TEXT_PARTS,
    },
}

REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        JSON: {"schema": {"$ref": "#/components/schemas/ExplainRequest"}},
        MULTIPART: {
            "schema": _MULTIPART_SCHEMA,
            "encoding": {
                "image": {"contentType": "image/*, application/octet-stream"},
                **TEXT_ENCODING,
            },
        },
    },
}


# Generators of clients know no parts whose names depend on the answer.
_BYTES: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}


@router.post(
    "/explain",
    summary="Explain pictures",
    response_model=ExplainResponse,
    responses={
        200: {
            "description": "The explanations. With `Accept: multipart/form-data` or "
            f"`multipart/mixed`, the first part, `{_ANSWER}`, is this JSON without heatmaps and "
            "overlays. Each of them is a part of its own: raw bytes with a media type and a file "
            "name, named by its place in the JSON, such as `images.0.targets.1.overlay`. With an "
            "image type in `Accept`, the answer is one overlay.",
            "content": dict.fromkeys((MULTIPART, _MIXED, *_OVERLAYS), _BYTES),
        }
    },
    openapi_extra={
        "requestBody": REQUEST_BODY,
        "parameters": [TIMEOUT_PARAMETER],
    },
)
async def explain(request: Request) -> Response:
    """Show where a model looks in each picture for each prompt or other target.

    Send JSON with base64 or data URLs, or `multipart/form-data` with files. If `Accept` prefers
    `image/jpeg`, `image/webp` or `image/png`, the answer to one picture and one target is the
    overlay itself.
    """
    given = request.headers.getlist("accept")
    # Refused before the body is read; the body may leave fewer types.
    choose(given, _OFFERED)
    accepted = accept(request)
    inputs = await accepted.read(read_request(request))
    kind = _kind_of_answer(given, inputs.output)
    if kind in _OVERLAYS:
        outcome = await accepted.explain(_only_overlay(inputs, kind))
        return Response(outcome.images[0].targets[0].drawn.overlay, media_type=kind)
    outcome = await accepted.explain(inputs)

    def answer(place: Place) -> ExplainResponse:
        return _answer(accepted.record.request_id, outcome, inputs.output, place)

    if kind == JSON:
        return await json_answer(outcome.target_count, answer)
    pictures = list(_picture_parts(kind, outcome, inputs.output))
    return await multipart_answer(kind, partial(_json_part, kind, answer), pictures)


def _kind_of_answer(accept: Sequence[str], output: OutputOptions) -> str:
    """Return the media type of the answer; an overlay has the requested format, if there is one.

    Raises:
        NotAcceptableError: `Accept` allows only other formats than the requested one.
    """
    if "format" not in output.model_fields_set:
        return choose(accept, _OFFERED)
    requested = PICTURE_TYPES[output.format]
    try:
        return choose(accept, (JSON, MULTIPART, _MIXED, requested))
    except NotAcceptableError as error:
        raise NotAcceptableError(
            f"output.format is {output.format!r}, but Accept is {', '.join(accept)!r}: leave one "
            "of them out.",
            field="output.format",
        ) from error


def _only_overlay(inputs: ExplainInputs, kind: str) -> ExplainInputs:
    """Return the inputs with an overlay as the only output, of one picture and one target.

    Args:
        inputs: the inputs of the request.
        kind: media type of the overlay.

    Raises:
        NotAcceptableError: there are several pictures, targets or heads.
    """
    if inputs.options.heads == "each":
        raise NotAcceptableError(
            f"Accept: {kind} is for one map, not for one of each head: ask for application/json.",
            field="options.heads",
        )
    targets = len(inputs.question.targets)
    if len(inputs.images) != 1 or targets != 1:
        asked = "prompts" if (inputs.question.fields or ())[-1:] == ("prompts",) else "targets"
        raise NotAcceptableError(
            f"Accept: {kind} is for one picture and one prompt or target, not "
            f"{len(inputs.images)} and {targets}: ask for application/json.",
            field=asked if len(inputs.images) == 1 else "images",
        )
    for name in (each.name for each in measurements_of(inputs)):
        field = options()[name].field
        raise NotAcceptableError(
            f"Accept: {kind} has no place for the result of {field}: ask for application/json.",
            field=field,
        )
    (format_,) = (name for name, media_type in PICTURE_TYPES.items() if media_type == kind)
    only_overlay = {
        "heatmap": "none",
        "overlay": True,
        "format": format_,
        "regions_threshold": None,
    }
    return replace(inputs, output=inputs.output.model_copy(update=only_overlay))


def _answer(
    request_id: str, outcome: ExplainOutcome, output: OutputOptions, place: Place
) -> ExplainResponse:
    return ExplainResponse(
        request_id=request_id,
        model=outcome.model,
        layers=list(outcome.layers),
        score=outcome.score,
        cached_prompts=outcome.cached_prompts,
        images=[image_explanation(image, output, place) for image in outcome.images],
        timings=timings(outcome.seconds),
    )


def _json_part(kind: str, answer: Callable[[Place], ExplainResponse]) -> RawPart:
    """Return the part of a multipart answer that holds everything but the pictures."""
    disposition = "form-data" if kind == MULTIPART else "inline"
    json = answer(lambda _: None).model_dump_json().encode()
    return RawPart(f'{disposition}; name="{_ANSWER}"', JSON, json)


def _picture_parts(kind: str, outcome: ExplainOutcome, output: OutputOptions) -> Iterator[RawPart]:
    """Yield the heatmaps and overlays as parts of a multipart answer."""
    disposition = "form-data" if kind == MULTIPART else "attachment"
    for image, explained in enumerate(outcome.images):
        for target, drawn in enumerate(each.drawn for each in explained.targets):
            pictures: tuple[tuple[str, bytes | None, HeatmapType | None], ...] = (
                ("heatmap", drawn.heatmap, HEATMAP_TYPES[output.heatmap]),
                ("overlay", drawn.overlay, PICTURE_TYPES[output.format]),
            )
            for field, content, media_type in pictures:
                if content is not None and media_type is not None:
                    name = f"images.{image}.targets.{target}.{field}"
                    names = f'name="{name}"; filename="{name}{ENDINGS[media_type]}"'
                    yield RawPart(f"{disposition}; {names}", media_type, content)


@progress_router.get("/explain/{request_id}/progress", summary="Read the progress of a request")
async def explain_progress(request: Request, request_id: RequestId) -> ExplainProgress:
    """Return the progress of a request that is not answered yet, by its `X-Request-ID`.

    Only the replica that handles the request knows its progress, and only until it is answered.
    Choose an id that cannot be guessed: everyone who knows it can read the progress.
    """
    reading = application_of(request.app).explaining.progress.read(request_id)
    return ExplainProgress(
        stage=reading.stage, position=reading.position, estimated_seconds=reading.seconds
    )
