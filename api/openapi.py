"""The OpenAPI document: flask-smorest's, completed with errors, headers, examples and security."""

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from functools import cached_property
from itertools import groupby
from types import MappingProxyType
from typing import Any, Final, TypeVar

from flask import Response, jsonify, url_for
from flask_smorest import Api, Blueprint
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import HTTPException

from api.errors import ERRORS, ErrorType, from_http
from api.request_hooks import failure
from api.schemas import ErrorEnvelope

#: The document or a part of it, in JSON.
Document = dict[str, Any]

_REQUEST_ID: Final = "req-5b1f0c9a7e3d2468"
_TASK_ID: Final = "rm-20261122-8w3kq5t7y2m4n6p9r2s4"


def _header(description: str, example: str | int, *, required: bool = False) -> Document:
    return {
        "description": description,
        **({"required": True} if required else {}),
        "schema": {"type": "integer" if isinstance(example, int) else "string"},
        "example": example,
    }


_RESPONSE_HEADERS: Final = {
    "X-Request-Id": _header(
        "This request's id, in every log line; the caller's own, if it sent one.",
        _REQUEST_ID,
        required=True,
    ),
    "Location": _header(
        "URL of the task, batch, upload or result.",
        f"http://127.0.0.1:8000/api/v1/tasks/{_TASK_ID}",
        required=True,
    ),
    "Retry-After": _header("Seconds after which to try again.", 5),
    "WWW-Authenticate": _header("How to authenticate.", "Bearer", required=True),
    "RateLimit-Policy": _header(
        "The key's quota `q` in `w` seconds; only for a key that has one.", '"pictures";q=60;w=60'
    ),
    "RateLimit": _header(
        "What is left, `r`, and the seconds `t` until the quota is full again.",
        '"pictures";r=59;t=1',
    ),
    "Quota-Policy": _header(
        "What the caller may have: bytes stored, unfinished uploads, pending jobs; those that are "
        "limited.",
        '"bytes";q=107374182400, "uploads";q=1000, "pending";q=5000',
    ),
    "Quota": _header(
        "What is left of each, `r`.",
        '"bytes";r=107370000000, "uploads";r=1000, "pending";r=4998',
    ),
    "Preference-Applied": _header(
        "The wait that was applied; only if the client preferred to wait.", "wait=5"
    ),
    "Idempotency-Replayed": _header(
        "true: an earlier request with the same key made the task, batch or upload.", "true"
    ),
}

#: Headers of answers by HTTP status, beside the request's id.
_HEADERS_BY_STATUS: Final = MappingProxyType(
    {
        "201": ("Location", "Quota-Policy", "Quota", "Idempotency-Replayed"),
        "202": (
            "Location",
            "RateLimit-Policy",
            "RateLimit",
            "Quota-Policy",
            "Quota",
            "Preference-Applied",
            "Idempotency-Replayed",
        ),
        "302": ("Location",),
        "401": ("WWW-Authenticate",),
        "403": ("Quota-Policy", "Quota"),
        "409": ("Retry-After",),
        "429": ("Retry-After", "RateLimit-Policy", "RateLimit", "Quota-Policy", "Quota"),
        "503": ("Retry-After",),
    }
)

_BY_FORMAT: Final = MappingProxyType(
    {
        "date-time": "2026-11-22T09:41:07.250000+00:00",
        "url": "https://pictures.example/rmbg/…",
        "uri": "https://pictures.example/rmbg/…",
    }
)

_BY_TYPE: Final = MappingProxyType(
    {"string": "…", "integer": 1, "number": 1.0, "boolean": False, "object": {}}
)


def example_of(schema: Document, components: Document) -> Any:  # noqa: ANN401 - any JSON
    """Return an example value for a schema, which may refer to the document's components."""
    if "example" in schema:
        return schema["example"]
    if "enum" in schema:
        return schema["enum"][0]
    # What may be null is a choice of what it refers to, and null.
    first = schema.get("anyOf", [schema])[0]
    if "$ref" in first:
        return example_of(components["schemas"][first["$ref"].rpartition("/")[2]], components)
    if "properties" in schema:
        named = schema["properties"].items()
        return {name: example_of(part, components) for name, part in named}
    kinds = schema.get("type", "object")
    kind = kinds[0] if isinstance(kinds, list) else kinds
    if kind == "array":
        return [example_of(schema["items"], components)]
    return _BY_FORMAT.get(schema.get("format", ""), _BY_TYPE.get(kind))


#: Where a handler's own errors are noted until the document is complete; see `ApiBlueprint.fails`.
_ERRORS_NOTE: Final = "x-errors"
_JSON: Final = "application/json"
_WITH_KEYS: Final = (
    "unauthorized",
    "queue_unavailable",
    "origin_not_allowed",
    "host_not_trusted",
)
_WITH_QUERY: Final = ("invalid_parameter", "unknown_parameter")
_WITH_BODY: Final = (
    "bad_request",
    "payload_too_large",
    "unsupported_media_type",
    "invalid_parameter",
    "unknown_parameter",
)

_ERROR_SCHEMA: Final = {"$ref": "#/components/schemas/ErrorEnvelope"}


def _describe_answers(
    operation: Document, parameters: Iterable[Document], components: Document
) -> None:
    """Add its errors to an operation, and headers and an example to each response."""
    responses = operation["responses"]
    # flask-smorest's references to its own errors are replaced by the table's.
    for status in [each for each, answer in responses.items() if "$ref" in answer]:
        del responses[status]
    names = {*operation.pop(_ERRORS_NOTE, []), *_general_errors(operation, parameters)}
    responses.update(_error_responses(ERRORS[name] for name in names))
    for status, answer in responses.items():
        headers = ("X-Request-Id", *_HEADERS_BY_STATUS.get(str(status), ()))
        answer["headers"] = {
            **{name: {"$ref": f"#/components/headers/{name}"} for name in headers},
            **answer.get("headers", {}),
        }
        content = answer.get("content", {}).get(_JSON)
        if content is not None and not content.keys() & {"example", "examples"}:
            content["example"] = example_of(content["schema"], components)
    operation["responses"] = dict(sorted(responses.items(), key=lambda item: str(item[0])))


def _general_errors(operation: Document, parameters: Iterable[Document]) -> Iterator[str]:
    """Yield the errors that follow from an operation's security, parameters and body."""
    yield "internal_error"
    if operation["security"]:
        yield from _WITH_KEYS
    for parameter in parameters:
        if parameter["in"] == "path":
            own = f"{parameter['name'].removesuffix('_id')}_not_found"
            yield own if own in ERRORS else "not_found"
            if parameter["name"] == "task_id":
                yield "task_unreadable"
        if parameter["in"] == "query":
            yield from _WITH_QUERY
    if "requestBody" in operation:
        yield from _WITH_BODY


def _error_responses(rows: Iterable[ErrorType]) -> Iterator[tuple[str, Document]]:
    """Yield a response for each status, with its errors as examples."""
    for status, found in groupby(sorted(rows, key=lambda row: row.code), lambda row: row.status):
        kinds = list(found)
        examples = {
            row.type: {
                "value": {
                    "code": row.code,
                    "message": row.message,
                    "data": None,
                    "error": {"type": row.type, "fields": {}},
                    "request_id": _REQUEST_ID,
                }
            }
            for row in kinds
        }
        yield (
            str(status),
            {
                "description": " ".join(row.message for row in kinds),
                "content": {_JSON: {"schema": _ERROR_SCHEMA, "examples": examples}},
            },
        )


_METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch")
_SECURITY_SCHEMES: Final = {
    "ApiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "Made with `rmbg keys add`.",
    },
    "Bearer": {"type": "http", "scheme": "bearer", "description": "The same key."},
}

_DESCRIPTION: Final = (
    "Removes the background of pictures. Submit one, then follow its task, wait for it, or get "
    "a webhook. Every answer below /api/v1 is an envelope: `code` is 0 and `data` the "
    "answer, or `code` is the HTTP status × 100 + a stable number and `error` says what was wrong."
)


def _complete(document: Document) -> Document:
    """Complete flask-smorest's document with errors, headers, examples and security schemes."""
    document["info"]["description"] = _DESCRIPTION
    document["servers"] = [{"url": "/"}]
    components = document["components"]
    components.pop("responses", None)
    components["securitySchemes"] = _SECURITY_SCHEMES
    components["headers"] = _RESPONSE_HEADERS
    for path, method, operation in operations(document):
        shared = document["paths"][path].get("parameters", [])
        parameters = [*shared, *operation.get("parameters", [])]
        for parameter in parameters:
            _tidy(parameter)
        needs_key = path.startswith("/api/") and method != "options"
        operation["security"] = [{name: []} for name in _SECURITY_SCHEMES] if needs_key else []
        for kind, content in operation.get("requestBody", {}).get("content", {}).items():
            if "form" in kind:
                name = content["schema"]["$ref"].rpartition("/")[2]
                for schema in components["schemas"][name]["properties"].values():
                    _drop_null(schema)
        _describe_answers(operation, parameters, components)
    return document


def operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    """Yield path, method and description of each operation."""
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                yield path, method, item[method]


def _drop_null(schema: Document) -> None:
    """Remove null from a schema: a query or a form cannot hold it."""
    if isinstance(schema.get("type"), list):
        kinds = [kind for kind in schema["type"] if kind != "null"]
        schema["type"] = kinds[0] if len(kinds) == 1 else kinds
    if "enum" in schema:
        schema["enum"] = [value for value in schema["enum"] if value is not None]
    if schema.get("default", "") is None:
        del schema["default"]


def _tidy(parameter: Document) -> None:
    _drop_null(parameter.get("schema", {}))
    if parameter["name"] == "task_id":
        parameter["description"] = "As the submission was answered with."
        parameter["example"] = _TASK_ID
    elif parameter["in"] == "path":
        parameter.setdefault("description", f"The {parameter['name'].replace('_', ' ')}.")


Handler = TypeVar("Handler", bound=Callable[..., Any])


class EnvelopeApi(Api):  # type: ignore[misc] # flask-smorest publishes no types
    """flask-smorest's `Api`, with errors in the envelope and the complete document."""

    ERROR_SCHEMA = ErrorEnvelope
    #: There is no default response: each error is documented by name.
    DEFAULT_ERROR_RESPONSE_NAME = None

    def _openapi_json(self) -> Response:
        root = url_for("health.Live").removesuffix("/healthz/live")
        return jsonify({**self._document, "servers": [{"url": root or "/"}]})

    @cached_property
    def _document(self) -> dict[str, Any]:
        """The complete document, which is made once, since anybody may ask for it."""
        return self.document()

    def document(self) -> dict[str, Any]:
        """Return the complete OpenAPI document."""
        if "ErrorEnvelope" not in self.spec.components.schemas:
            self.spec.components.schema("ErrorEnvelope", schema=ErrorEnvelope)
        return _complete(deepcopy(self.spec.to_dict()))

    def handle_http_exception(self, error: HTTPException) -> Response:
        """Answer an exception of Flask, Werkzeug or webargs."""
        answer = failure(from_http(error))
        for name, value in error.get_headers():
            if name in {"Allow", "Location"}:
                answer.headers[name] = value
        return answer


class ApiBlueprint(Blueprint):  # type: ignore[misc] # flask-smorest publishes no types
    """A blueprint that refuses unknown query parameters, and documents errors by name."""

    #: None leaves unknown parameters to the schema, which refuses them.
    ARGUMENTS_PARSER = FlaskParser(unknown=None)

    def fails(self, *errors: str) -> Callable[[Handler], Handler]:
        """Document errors of the table for a handler, beside the general ones.

        These are documented for every handler that they fit: 401, 404 for what its path names,
        400, 413, 415 and 422 for what it reads, 500, and 503 while Redis is away.
        """
        unknown = set(errors) - set(ERRORS)
        if unknown:
            raise ValueError(f"Not in the table of errors: {', '.join(sorted(unknown))}.")
        note: Callable[[Handler], Handler] = self.doc(**{_ERRORS_NOTE: list(errors)})
        return note
