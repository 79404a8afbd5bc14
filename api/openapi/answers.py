"""Which errors an operation can end with, and how every answer looks."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, Final

from api.errors import ERRORS, ErrorType
from api.openapi.examples import example_of
from api.openapi.headers import of_status

#: Where a handler's own errors are noted until the document is complete; see `FormBlueprint.fails`.
ERRORS_NOTE: Final = "x-errors"

_API: Final = "/api/v1"
_JSON: Final = "application/json"
_ALWAYS: Final = ("internal_error",)
_WITH_KEYS: Final = ("unauthorized", "queue_unavailable")
_WITH_QUERY: Final = ("invalid_parameter", "unknown_parameter")
_WITH_BODY: Final = (
    "bad_request",
    "payload_too_large",
    "unsupported_media_type",
    "invalid_parameter",
    "unknown_parameter",
)
_ERROR_SCHEMA: Final = {"$ref": "#/components/schemas/ErrorEnvelope"}


def describe_answers(
    path: str,
    operation: dict[str, Any],
    parameters: Iterable[dict[str, Any]],
    components: dict[str, Any],
) -> None:
    """Give an operation its errors, and every answer headers and an example."""
    responses = operation["responses"]
    responses.pop("default", None)
    own = operation.pop(ERRORS_NOTE, [])
    if path.startswith((_API, "/healthz")):
        # What refers to flask-smorest's own errors is said better below.
        for status in [each for each, answer in responses.items() if "$ref" in answer]:
            del responses[status]
        names = {*own, *_general(path, operation, parameters)}
        responses.update(_errors(sorted(names)))
    for status, answer in responses.items():
        answer["headers"] = {**of_status(str(status)), **answer.get("headers", {})}
        _show(answer, components)
    operation["responses"] = dict(sorted(responses.items(), key=lambda item: str(item[0])))


def _general(
    path: str, operation: dict[str, Any], parameters: Iterable[dict[str, Any]]
) -> Iterator[str]:
    """The errors that a caller meets for where and what it asks."""
    yield from _ALWAYS
    if path.startswith(_API) and operation["security"]:
        yield from _WITH_KEYS
    for parameter in parameters:
        if parameter["in"] == "path":
            yield _not_found(parameter["name"])
            if parameter["name"] == "task_id":
                yield "task_unreadable"
        if parameter["in"] == "query":
            yield from _WITH_QUERY
    if "requestBody" in operation:
        yield from _WITH_BODY


def _not_found(name: str) -> str:
    """`task_not_found` for `task_id`, and so on, where there is such a row."""
    own = f"{name.removesuffix('_id')}_not_found"
    return own if own in ERRORS else "not_found"


def _errors(names: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = sorted((ERRORS[name] for name in names), key=lambda row: row.code)
    for status, found in groupby(rows, key=lambda row: row.status):
        kinds = list(found)
        examples = {row.type: {"value": _error_example(row)} for row in kinds}
        yield (
            str(status),
            {
                "description": " ".join(row.message for row in kinds),
                "content": {_JSON: {"schema": _ERROR_SCHEMA, "examples": examples}},
            },
        )


def _error_example(row: ErrorType) -> dict[str, Any]:
    return {
        "code": row.code,
        "message": row.message,
        "data": None,
        "error": {"type": row.type, "fields": {}},
        "request_id": "req-5b1f0c9a7e3d2468",
    }


def _show(answer: dict[str, Any], components: dict[str, Any]) -> None:
    content = answer.get("content", {}).get(_JSON)
    if content is not None and not content.keys() & {"example", "examples"}:
        content["example"] = example_of(content["schema"], components)
