"""The description of the API is complete, and says what the routes are."""

import json
import re
from typing import Any

import pytest

from api.app import create_app
from api.errors import ERRORS
from api.openapi import ApiBlueprint, operations
from api.services import Services
from api.settings import ApiSettings
from tests.support.paths import ROOT

DOCUMENT: dict[str, Any] = json.loads((ROOT / "docs" / "openapi.json").read_text())
OPERATIONS = list(operations(DOCUMENT))
IDS = [f"{method} {path}" for path, method, _ in OPERATIONS]


def test_every_route_is_described() -> None:
    app = create_app(Services.from_settings(ApiSettings.load()))
    described = {(path, method.upper()) for path, method, _ in OPERATIONS}
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        if path.startswith(("/api/", "/healthz/")):
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
                assert (path, method) in described


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS, ids=IDS)
def test_an_operation_says_what_it_does_who_may_and_what_comes_of_it(
    path: str, method: str, operation: dict[str, Any]
) -> None:
    assert operation["summary"].endswith(".")
    needs_key = path.startswith("/api/") and method != "options"
    assert bool(operation["security"]) == needs_key
    assert "default" not in operation["responses"], "every answer is to be named"
    for status, answer in operation["responses"].items():
        assert re.fullmatch(r"[2345]\d\d", status)
        assert answer["description"]
        assert "X-Request-Id" in answer["headers"]
        content = answer.get("content", {}).get("application/json")
        assert content is None or content.keys() & {"example", "examples"}, status
    shared = DOCUMENT["paths"][path].get("parameters", [])
    for parameter in [*shared, *operation.get("parameters", [])]:
        assert parameter.get("description"), parameter["name"]


def test_every_error_of_the_native_api_is_an_example_somewhere() -> None:
    shown = {
        name
        for _, _, operation in OPERATIONS
        for answer in operation["responses"].values()
        for name in answer.get("content", {}).get("application/json", {}).get("examples", {})
    }
    # What Flask itself answers at addresses that are no operation, or that stands for a status.
    generic = {row.type for row in ERRORS.values() if row.number == 0}
    assert set(ERRORS) - generic <= shown


def test_an_error_that_is_not_in_the_table_cannot_be_documented() -> None:
    with pytest.raises(ValueError, match="no_such_error"):
        ApiBlueprint("x", __name__).fails("no_such_error")


def test_nothing_is_referred_to_that_is_not_there() -> None:
    for name in re.findall(r'"\$ref": "#/components/([^"]+)"', json.dumps(DOCUMENT)):
        kind, _, key = name.partition("/")
        assert key in DOCUMENT["components"][kind]
