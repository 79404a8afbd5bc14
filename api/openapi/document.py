"""Completes the OpenAPI document that flask-smorest makes from the handlers."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any, Final

from api.openapi.answers import describe_answers
from api.openapi.headers import HEADERS

Document = dict[str, Any]

_METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch")
_TASK_ID: Final = "rm-20261122-8w3kq5t7y2m4n6p9r2s4"
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
    "Removes the background of pictures. Submit one, then follow its task, wait for it, or be "
    "told by a webhook. Every answer below /api/v1 is an envelope: `code` is 0 and `data` the "
    "answer, or `code` is the HTTP status × 100 + a stable number and `error` says what was wrong."
)


def complete(made: Document, *, server: str = "/") -> Document:
    """The whole document: with every error, header, example and way to authenticate.

    Args:
        made: by flask-smorest; left as it is.
        server: address that the paths are below.
    """
    document = deepcopy(made)
    document["info"]["description"] = _DESCRIPTION
    document["servers"] = [{"url": server}]
    components = document.setdefault("components", {})
    components.pop("responses", None)
    components["securitySchemes"] = deepcopy(_SECURITY_SCHEMES)
    components["headers"] = deepcopy(HEADERS)
    for path, method, operation in operations(document):
        shared = document["paths"][path].get("parameters", [])
        parameters = [*shared, *operation.get("parameters", [])]
        for parameter in parameters:
            _tidy(parameter)
        _secure(path, method, operation)
        _tidy_forms(operation, components["schemas"])
        describe_answers(path, operation, parameters, components)
    return document


def operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    """Path, method and description of every operation."""
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                yield path, method, item[method]


def _tidy_forms(operation: Document, schemas: Document) -> None:
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        if "form" in kind:
            name = content["schema"].get("$ref", "").rpartition("/")[2]
            for schema in schemas.get(name, {}).get("properties", {}).values():
                _drop_null(schema)


def _drop_null(schema: Document) -> None:
    """What is left out is left out: neither a query nor a form can hold null."""
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


def _secure(path: str, method: str, operation: Document) -> None:
    needed = path.startswith("/api/") and method != "options"
    operation["security"] = [{name: []} for name in _SECURITY_SCHEMES] if needed else []
