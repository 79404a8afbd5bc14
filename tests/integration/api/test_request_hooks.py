"""Whatever goes wrong, and wherever: one shape of answer; and HEAD and OPTIONS on every route."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from structlog.testing import capture_logs
from urllib3.filepost import encode_multipart_formdata
from werkzeug.test import TestResponse

from api.app import create_app
from api.errors import ERRORS
from api.services import Services
from tasks import redis_keys
from tasks.redis_client import connect
from tests.support.servers import Servers
from tests.support.services import with_parts
from tests.support.tenants import PHOTO, Tenant, finish, services_with_keys, tenant

_FORM = "multipart/form-data; boundary=b"
_SUBMIT = "/api/v1/remove-bg"
_MB = 2**20


@pytest.fixture(scope="module")
def services(servers: Servers, objects: object) -> Services:  # noqa: ARG001 - makes the bucket
    return services_with_keys(servers.settings(servers.new_database()))


@pytest.fixture(scope="module")
def shop(services: Services) -> Tenant:
    return tenant(services, "shop")


def _check(answer: TestResponse) -> tuple[int, str]:
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
    ("method", "path", "options", "status", "kind"),
    [
        ("GET", "/", {}, None, None),
        ("GET", "/nowhere", {}, 404, "not_found"),
        ("GET", "/api/v1/nowhere", {}, 404, "not_found"),
        ("GET", "/api/v1/tasks/a/b/c", {}, 404, "not_found"),
        ("GET", "/api/v1/tasks/%00", {}, 404, "task_not_found"),
        ("GET", "/api/v1/tasks/" + "x" * 3000, {}, 404, "task_not_found"),
        ("PUT", _SUBMIT, {}, 405, "method_not_allowed"),
        ("DELETE", "/api/v1/info", {}, 405, "method_not_allowed"),
        ("BREW", "/api/v1/tasks", {}, 405, "method_not_allowed"),
        ("POST", _SUBMIT, {"data": b"x" * 16 * _MB, "content_type": _FORM}, 400, "bad_request"),
        ("POST", _SUBMIT, {"data": b"<a/>", "content_type": "text/xml"}, 415, None),
        ("POST", _SUBMIT, {"data": b"x", "content_type": "nonsense"}, 415, None),
        ("POST", _SUBMIT, {"data": b"", "content_type": _FORM}, 400, "missing_image"),
        ("POST", _SUBMIT, {"data": b"--b\r\n", "content_type": _FORM}, 400, None),
        ("POST", _SUBMIT, {"data": b"x", "content_type": "multipart/form-data"}, 400, None),
        (
            "POST",
            _SUBMIT,
            {"data": b"--b\r\nContent-Disposition: form-data\r\n\r\nx", "content_type": _FORM},
            400,
            None,
        ),
        ("POST", _SUBMIT, {"data": b"", "content_type": "application/json"}, 400, "bad_request"),
        ("POST", _SUBMIT, {"data": b"{", "content_type": "application/json"}, 400, "bad_request"),
        ("POST", _SUBMIT, {"data": b"\xff", "content_type": "application/json"}, 400, None),
        ("POST", _SUBMIT, {"data": b"[]", "content_type": "application/json"}, 400, None),
        ("POST", _SUBMIT, {"data": b"null", "content_type": "application/json"}, 400, None),
        ("POST", _SUBMIT, {"data": b"[" * 200_000, "content_type": "application/json"}, 400, None),
        (
            "POST",
            _SUBMIT,
            {"json": {"image_b64": "AAAA", "metadata": {"a": "x" * 9000}}},
            422,
            None,
        ),
        (
            "POST",
            _SUBMIT,
            {"data": b'{"metadata": {"a": NaN}}', "content_type": "application/json"},
            400,
            "bad_request",
        ),
        ("POST", _SUBMIT, {"data": {"metadata": "[" * 90_000}}, 422, "invalid_parameter"),
        ("POST", _SUBMIT, {"data": {"metadata": '{"a": NaN}'}}, 422, "invalid_parameter"),
        ("POST", _SUBMIT, {"data": {"metadata": '{"a": "\\ud800"}'}}, 422, "invalid_parameter"),
        ("GET", "/api/v1/tasks?limit=NaN", {}, 422, "invalid_parameter"),
        ("GET", "/api/v1/tasks?limit=1&limit=0", {}, None, None),
        ("GET", "/api/v1/tasks?x=1", {}, 422, "unknown_parameter"),
        ("GET", "/api/v1/tasks/rm-1?wait=inf", {}, 422, "invalid_parameter"),
        ("GET", "/api/v1/tasks/rm-1?wait=nan", {}, 422, "invalid_parameter"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_what_is_wrong_is_told_in_the_envelope(
    shop: Tenant,
    *,
    method: str,
    path: str,
    options: dict[str, Any],
    status: int | None,
    kind: str | None,
) -> None:
    answer = shop.call(method, path, **options)
    if status is None and answer.status_code < 400:
        return
    found = _check(answer)
    assert status in {None, found[0]}
    assert kind in {None, found[1]}
    if found[0] == 405:
        assert answer.headers["Allow"]


def test_a_crash_tells_no_secrets(services: Services) -> None:
    class Broken:
        def page(self, *_: object, **__: object) -> None:
            raise RuntimeError("redis://:password@host")

    broken = with_parts(services, task_list=Broken())
    caller = tenant(broken, "crash")
    answer = caller.call("GET", "/api/v1/tasks")
    assert _check(answer) == (500, "internal_error")
    assert "password" not in answer.get_data(as_text=True)


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
def test_a_damaged_record_is_told_apart_from_a_crash(
    services: Services, shop: Tenant, method: str, path: str
) -> None:
    task_id = shop.submit()
    with connect(services.settings.redis_url.get_secret_value()) as client:
        client.hset(redis_keys.job_key(task_id), "options", "{a secret")
    with capture_logs() as lines:
        answer = shop.call(method, f"/api/v1/tasks/{task_id}{path}")
    assert _check(answer) == (500, "task_unreadable")
    assert "secret" not in answer.get_data(as_text=True)
    assert [each["task_id"] for each in lines if each["event"] == "record.unreadable"] == [task_id]


def _routes(app: Flask) -> Iterator[tuple[str, set[str]]]:
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith(("/api/", "/healthz/")) or rule.rule == "/openapi.json":
            yield rule.rule, set(rule.methods or ())


def test_options_tells_the_methods_of_every_route_and_needs_no_key(services: Services) -> None:
    app = create_app(services)
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


def test_head_is_get_without_a_body_on_every_route(services: Services, shop: Tenant) -> None:
    task_id = shop.submit()
    finish(services, task_id)
    seen = 0
    for rule, methods in _routes(create_app(services)):
        if not {"GET", "HEAD"} <= methods:
            continue
        for name in (task_id, "unknown"):
            path = re.sub(r"<[^>]+>", name, rule)
            with shop.call("GET", path) as got, shop.call("HEAD", path) as headed:
                assert headed.status_code == got.status_code, path
                assert headed.data == b""
                assert headed.content_type == got.content_type
            seen += 1
    assert seen > 8


def test_a_picture_that_is_too_large_names_both_sizes(shop: Tenant) -> None:
    picture = PHOTO.read_bytes() + b"x" * 10 * _MB
    body, kind = encode_multipart_formdata({"image": ("a.jpg", picture)})
    answer = shop.call("POST", _SUBMIT, data=body, content_type=kind)
    assert _check(answer) == (413, "image_too_large")
    assert "the limit is 10 MB" in answer.get_json()["message"]
