"""Whatever goes wrong, and wherever: one shape of answer; and HEAD and OPTIONS on every route."""

import re
from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from structlog.testing import capture_logs
from werkzeug.test import TestResponse

from api.app import create_app
from api.errors import ERRORS
from api.services import Services
from tasks import redis_keys
from tests.support.services import with_parts, with_settings
from tests.support.tenants import Tenant, finish, tenant

SETTINGS = {"auth": "on"}

_FORM = "multipart/form-data; boundary=b"
_HEAD = b"--b\r\nContent-Disposition: form-data\r\n\r\nx"


def _checked(answer: TestResponse) -> tuple[int, str]:
    """Return status and type of a failure, whose shape is checked."""
    body = answer.get_json()
    assert answer.mimetype == "application/json", answer.data
    assert set(body) == {"code", "message", "data", "error", "request_id"}
    assert body["data"] is None
    assert body["message"]
    assert set(body["error"]) == {"type", "fields"}
    row = ERRORS[body["error"]["type"]]
    assert (body["code"], answer.status_code) == (row.code, row.status)
    assert answer.headers["X-Request-Id"] == body["request_id"]
    return answer.status_code, row.type


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/api/v1/nowhere", 404, "not_found"),
        ("GET", "/api/v1/tasks/a/b/c", 404, "not_found"),
        ("GET", "/api/v1/tasks/%00", 404, "task_not_found"),
        ("GET", "/api/v1/tasks/" + "x" * 3000, 404, "task_not_found"),
        ("GET", "/api/v1/tasks/rm-unknown?wait=30", 404, "task_not_found"),
        ("GET", "/api/v1/remove-bg", 405, "method_not_allowed"),
        ("PUT", "/api/v1/remove-bg", 405, "method_not_allowed"),
        ("DELETE", "/api/v1/info", 405, "method_not_allowed"),
        ("DELETE", "/healthz/live", 405, "method_not_allowed"),
        ("BREW", "/api/v1/tasks", 405, "method_not_allowed"),
        ("GET", "/api/v1/tasks?limit=NaN", 422, "invalid_parameter"),
        ("GET", "/api/v1/tasks?x=1", 422, "unknown_parameter"),
        ("GET", "/api/v1/tasks/rm-1?wiat=1", 422, "unknown_parameter"),
        ("GET", "/api/v1/tasks/rm-1?wait=-1", 422, "invalid_parameter"),
        ("GET", "/api/v1/tasks/rm-1?wait=inf", 422, "invalid_parameter"),
        ("GET", "/api/v1/tasks/rm-1?wait=nan", 422, "invalid_parameter"),
    ],
)
def test_an_address_that_does_not_fit_is_answered_in_the_envelope(
    shop: Tenant, method: str, path: str, status: int, kind: str
) -> None:
    answer = shop.call(method, path)
    assert _checked(answer) == (status, kind)
    assert (status == 405) == ("Allow" in answer.headers)


@pytest.mark.parametrize(
    ("data", "content_type", "status", "kind"),
    [
        (b"<a/>", "text/xml", 415, "unsupported_media_type"),
        (b"x", "nonsense", 415, "unsupported_media_type"),
        (b"", _FORM, 400, "missing_image"),
        (b"x" * 2**24, _FORM, 400, "bad_request"),
        (b"x", "multipart/form-data", 400, "bad_request"),
        (b"--b\r\n", _FORM, 400, "bad_request"),
        (_HEAD, _FORM, 400, "bad_request"),
        (b"", "application/json", 400, "bad_request"),
        (b"{", "application/json", 400, "bad_request"),
        (b"\xff", "application/json", 400, "bad_request"),
        (b"[1]", "application/json", 400, "bad_request"),
        (b"null", "application/json", 400, "bad_request"),
        (b"[" * 200_000, "application/json", 400, "bad_request"),
        (b'{"metadata": {"a": NaN}}', "application/json", 400, "bad_request"),
        ({"metadata": "[" * 90_000}, None, 422, "invalid_parameter"),
        ({"metadata": '{"a": NaN}'}, None, 422, "invalid_parameter"),
        ({"metadata": '{"a": "\\ud800"}'}, None, 422, "invalid_parameter"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_body_that_does_not_fit_is_answered_in_the_envelope(
    shop: Tenant,
    data: bytes | dict[str, str],
    content_type: str | None,
    status: int,
    kind: str,
) -> None:
    answer = shop.call("POST", "/api/v1/remove-bg", data=data, content_type=content_type)
    assert _checked(answer) == (status, kind)


def test_a_crash_shows_no_secrets(services: Services) -> None:
    class Broken:
        def page(self, *_: object, **__: object) -> None:
            raise RuntimeError("redis://:password@host")

    caller = tenant(with_parts(services, task_list=Broken()), "crash")
    with capture_logs():  # a traceback is long in the making
        answer = caller.call("GET", "/api/v1/tasks")
    assert _checked(answer) == (500, "internal_error")
    assert "password" not in answer.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "/result"),
        ("GET", "/events"),
        ("GET", "/deliveries"),
        ("POST", "/cancel"),
        ("DELETE", ""),
    ],
)
def test_a_damaged_record_has_an_error_of_its_own(
    shop: Tenant, redis: Redis, method: str, path: str
) -> None:
    task_id = shop.submit()
    redis.hset(redis_keys.job_key(task_id), "options", "{a secret")
    with capture_logs() as lines:
        answer = shop.call(method, f"/api/v1/tasks/{task_id}{path}")
    assert _checked(answer) == (500, "task_unreadable")
    assert "secret" not in answer.text
    assert [each["task_id"] for each in lines if each["event"] == "record.unreadable"] == [task_id]


@pytest.mark.parametrize(
    ("given", "kept"), [("order-17", "order-17"), ("a b {evil}", r"req-\w+")], ids=str
)
def test_the_callers_request_id_is_kept_unless_it_could_forge_log_lines(
    client: FlaskClient, given: str, kept: str
) -> None:
    answer = client.get("/healthz/live", headers={"X-Request-Id": given})
    assert re.fullmatch(kept, answer.headers["X-Request-Id"])
    assert answer.get_json()["request_id"] == answer.headers["X-Request-Id"]


def _routes(app: Flask) -> Iterator[tuple[str, set[str]]]:
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith(("/api/", "/healthz/")) or rule.rule == "/openapi.json":
            yield rule.rule, set(rule.methods or ())


def test_options_names_the_methods_of_every_route_and_needs_no_key(app: Flask) -> None:
    client = app.test_client()
    allowed: dict[str, set[str]] = {}
    for rule, methods in _routes(app):
        allowed.setdefault(rule, set()).update(methods)
    assert len(allowed) > 8
    for rule, methods in allowed.items():
        answer = client.options(re.sub(r"<[^>]+>", "1", rule))
        assert answer.status_code in {200, 204}, rule
        assert not answer.data
        if "Allow" in answer.headers:
            assert {each.strip() for each in answer.headers["Allow"].split(",")} == methods, rule
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_head_is_get_without_a_body_on_every_route(
    app: Flask, services: Services, shop: Tenant
) -> None:
    task_id = shop.submit()
    finish(services, task_id)
    rules = [rule for rule, methods in _routes(app) if {"GET", "HEAD"} <= methods]
    assert len(rules) > 8
    for path in {re.sub(r"<[^>]+>", name, rule) for rule in rules for name in (task_id, "unknown")}:
        with shop.call("GET", path) as got, shop.call("HEAD", path) as headed:
            assert headed.status_code == got.status_code, path
            assert headed.data == b""
            assert headed.content_type == got.content_type


def test_only_named_origins_may_call_from_a_browser(services: Services) -> None:
    origins = "https://shop.example, https://studio.example/"
    client = create_app(with_settings(services, cors_origins=origins)).test_client()
    asked = client.options(
        "/api/v1/remove-bg",
        headers={
            "Origin": "https://shop.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "x-api-key",
        },
    )
    assert asked.status_code == 200
    assert asked.headers["Access-Control-Allow-Origin"] == "https://shop.example"
    assert asked.headers["Access-Control-Allow-Headers"] == "x-api-key"
    assert "POST" in asked.headers["Access-Control-Allow-Methods"]
    seen = client.get("/api/v1/info", headers={"Origin": "https://studio.example"})
    assert seen.headers["Access-Control-Allow-Origin"] == "https://studio.example"
    assert "RateLimit" in seen.headers["Access-Control-Expose-Headers"]
    other = client.get("/api/v1/info", headers={"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in other.headers


def test_no_origin_may_by_default(client: FlaskClient) -> None:
    answer = client.get("/api/v1/info", headers={"Origin": "https://shop.example"})
    assert "Access-Control-Allow-Origin" not in answer.headers
