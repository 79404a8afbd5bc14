"""Whatever goes wrong, and wherever: one shape of answer; and HEAD and OPTIONS on every route."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from pydantic import SecretStr
from structlog.testing import capture_logs
from werkzeug.test import TestResponse

from tasks import redis_keys
from tasks.capacity import FREE_BYTES, Capacity
from tasks.errors import ObjectStoreFullError
from tests.support.api import Api
from tests.support.clock import Clock
from tests.support.redis_content import content
from tests.support.servers import embedded_valkey
from tests.support.services import services_on
from tests.support.stores import WatchedStore
from tests.support.submissions import PATH, refusal

SETTINGS = {"auth": "on"}

_UPLOADS, _TUS = "/api/v1/uploads", {"Tus-Resumable": "1.0.0"}
_FORM = "multipart/form-data; boundary=b"
_PART = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\nno file\r\n--b--\r\n'
_HEAD = b"--b\r\nContent-Disposition: form-data\r\n\r\nx"


def _checked(answer: TestResponse) -> tuple[int, str]:
    """Return status and type of a failure, whose shape is checked."""
    body = answer.get_json()
    assert answer.mimetype == "application/json", answer.data
    assert set(body["error"]) == {"type", "fields"}
    assert answer.headers["X-Request-Id"] == body["request_id"]
    return refusal(answer)


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
    shop: Api, method: str, path: str, status: int, kind: str
) -> None:
    answer = shop.open(path, method=method)
    assert _checked(answer) == (status, kind)
    assert (status == 405) == ("Allow" in answer.headers)


@pytest.mark.parametrize(
    ("data", "content_type", "status", "kind"),
    [
        (b"<a/>", "text/xml", 415, "unsupported_media_type"),
        (b"x", "nonsense", 415, "unsupported_media_type"),
        (b"", None, 400, "missing_image"),
        (b"", _FORM, 400, "missing_image"),
        (_PART % b"image", _FORM, 400, "missing_image"),
        ({"quality": "5"}, None, 400, "missing_image"),
        ({"a": "b"}, None, 422, "unknown_parameter"),
        (b"x" * 2**24, _FORM, 400, "bad_request"),
        (b"x", "multipart/form-data", 400, "bad_request"),
        (b"--b\r\n", _FORM, 400, "bad_request"),
        (_HEAD, _FORM, 400, "bad_request"),
        (b"", "application/json", 400, "bad_request"),
        (b"{", "application/json", 400, "bad_request"),
        (b"\xff", "application/json", 400, "bad_request"),
        (b"[1]", "application/json", 400, "bad_request"),
        (b"null", "application/json", 400, "bad_request"),
        (b"[" * 60_000, "application/json", 400, "bad_request"),
        (b'{"metadata": {"a": NaN}}', "application/json", 400, "bad_request"),
        ({"metadata": "[" * 9_000}, None, 422, "invalid_parameter"),
        (b'{"metadata": {"a": 1e400}}', "application/json", 400, "bad_request"),
        ({"metadata": '{"a": NaN}'}, None, 422, "invalid_parameter"),
        ({"metadata": '{"a": 1e400}'}, None, 422, "invalid_parameter"),
        ({"metadata": '{"a": "\\ud800"}'}, None, 422, "invalid_parameter"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_body_that_does_not_fit_is_answered_in_the_envelope(
    shop: Api, data: bytes | dict[str, str], content_type: str | None, status: int, kind: str
) -> None:
    answer = shop.post("/api/v1/remove-bg", data=data, content_type=content_type)
    assert _checked(answer) == (status, kind)


def test_a_crash_shows_no_secrets(api: Api) -> None:
    class Broken:
        def page(self, *_: object, **__: object) -> None:
            raise RuntimeError("redis://:password@host")

    caller = api.with_parts(task_list=Broken()).tenant("shop")
    with capture_logs():  # a traceback is long in the making
        answer = caller.get("/api/v1/tasks")
    assert _checked(answer) == (500, "internal_error")
    assert "password" not in answer.text


def test_a_damaged_record_has_an_error_of_its_own_and_hides_no_other(shop: Api) -> None:
    other, task_id = shop.submit(), shop.submit()
    shop.redis.hset(redis_keys.job_key(task_id), "options", "{a secret")
    for method, path in [
        ("GET", ""),
        ("GET", "/result"),
        ("GET", "/events"),
        ("GET", "/deliveries"),
        ("POST", "/cancel"),
        ("DELETE", ""),
    ]:
        with capture_logs() as lines:
            answer = shop.open(f"/api/v1/tasks/{task_id}{path}", method=method)
        assert _checked(answer) == (500, "task_unreadable")
        assert "secret" not in answer.text
        logged = [line["task_id"] for line in lines if line["event"] == "record.unreadable"]
        assert logged == [task_id]
    assert [each["task_id"] for each in shop.data("/api/v1/tasks")["tasks"]] == [other]


@pytest.mark.parametrize(
    ("given", "kept"), [("order-17", "order-17"), ("a b {evil}", r"req-\w+")], ids=str
)
def test_the_callers_request_id_is_kept_unless_it_could_forge_log_lines(
    api: Api, given: str, kept: str
) -> None:
    answer = api.get("/healthz/live", headers={"X-Request-Id": given})
    assert re.fullmatch(kept, answer.headers["X-Request-Id"])
    assert answer.get_json()["request_id"] == answer.headers["X-Request-Id"]


def _routes(app: Flask, *more: str) -> Iterator[tuple[str, set[str]]]:
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith(("/api/", "/healthz/", *more)) or rule.rule == "/openapi.json":
            yield rule.rule, set(rule.methods or ())


def test_options_names_the_methods_of_every_route_and_needs_no_key(api: Api) -> None:
    allowed: dict[str, set[str]] = {}
    for rule, methods in _routes(api.application):
        allowed.setdefault(rule, set()).update(methods)
    assert len(allowed) > 8
    for rule, methods in allowed.items():
        answer = api.options(re.sub(r"<[^>]+>", "1", rule))
        assert answer.status_code in {200, 204}, rule
        assert not answer.data
        if "Allow" in answer.headers:
            assert {each.strip() for each in answer.headers["Allow"].split(",")} == methods, rule
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_head_is_get_without_a_body_on_every_route(shop: Api) -> None:
    task_id = shop.submit()
    shop.finish(task_id)
    rules = [rule for rule, methods in _routes(shop.application) if {"GET", "HEAD"} <= methods]
    assert len(rules) > 8
    # The signed address to which GET redirects refuses HEAD, so the service answers it itself.
    rules.remove("/api/v1/tasks/<string:task_id>/result")
    for path in {re.sub(r"<[^>]+>", name, rule) for rule in rules for name in (task_id, "unknown")}:
        with shop.get(path) as got, shop.head(path) as headed:
            assert headed.status_code == got.status_code, path
            assert headed.data == b""
            assert headed.content_type == got.content_type


def test_only_named_origins_may_call_from_a_browser_and_none_by_default(api: Api) -> None:
    shop, studio = "https://shop.example", "https://studio.example"
    named = api.with_settings(cors_origins=f"{shop}, {studio}/")
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    asked = named.options("/api/v1/remove-bg", headers={"Origin": shop, **asks})
    assert asked.status_code == 200
    assert asked.headers["Access-Control-Allow-Origin"] == shop
    assert asked.headers["Access-Control-Allow-Headers"] == "x-api-key"
    assert "POST" in asked.headers["Access-Control-Allow-Methods"]
    for origin, called, allowed in (
        (studio, named, studio),
        ("https://evil.example", named, None),
        (shop, api, None),
    ):
        seen = called.get("/api/v1/info", headers={"Origin": origin})
        assert seen.headers.get("Access-Control-Allow-Origin") == allowed
        exposed = seen.headers.get("Access-Control-Expose-Headers", "")
        assert ("RateLimit" in exposed) == (allowed is not None)


def test_without_room_nothing_is_kept_and_the_rest_goes_on(shop: Api, tmp_path: Path) -> None:
    kept, canceled = shop.submit(), shop.submit()
    upload = shop.post(_UPLOADS, headers=_TUS | {"Upload-Length": "9"}).headers["Location"]
    shop.finish(kept)
    before = content(shop.redis)
    store = WatchedStore(shop.objects)
    room = Capacity(shop.redis, tmp_path, free=lambda _: FREE_BYTES - 1)
    full = shop.with_parts(capacity=room, object_store=store)
    changing = [
        (method, re.sub(r"<int:[^>]+>", "1", re.sub(r"<string:[^>]+>", kept, rule)))
        for rule, methods in _routes(shop.application, "/v1.0/")
        for method in methods & {"POST", "PUT", "PATCH"}
    ]
    refused = {
        (method, path)
        for method, path in changing
        if (answer := full.open(path, method=method, headers=_TUS)).status_code == 503
        and int(answer.headers["Retry-After"]) >= 60
        and b"store_full" in answer.data
    }
    goes_on = {path for method, path in changing if (method, path) not in refused}
    assert goes_on == {
        f"/api/v1/tasks/{kept}/cancel",
        f"/api/v1/batches/{kept}/cancel",
        f"/api/v1/tasks/{kept}/deliveries/1/replay",
    }
    assert {"/api/v1/remove-bg", "/api/v1/remove-bg/batch", _UPLOADS, "/v1.0/removebg"} <= {
        path for _, path in refused
    }
    assert (store.calls, content(shop.redis)) == ([], before)
    # Who asks for DELETE by POST erases, and nobody else gets past by that header.
    by_post = {**_TUS, "X-HTTP-Method-Override": "DELETE"}
    assert full.post(PATH, headers=by_post).status_code == 503
    assert full.post(upload, headers=by_post).status_code == 204
    assert full.get(f"/api/v1/tasks/{kept}/result").status_code == 302
    assert full.post(f"/api/v1/tasks/{canceled}/cancel").status_code == 200
    assert full.delete(f"/api/v1/tasks/{kept}").status_code == 200


def test_an_object_store_that_is_full_is_not_asked_for_every_picture(shop: Api) -> None:
    def is_full(key: str) -> None:
        raise ObjectStoreFullError(f"no space for {key}")

    store = WatchedStore(shop.objects, is_full)
    full = shop.with_parts(object_store=store)
    assert {refusal(full.send()) for _ in range(3)} == {(503, "store_full")}
    assert len(store.named("put")) == 1
    # Another process of the API knows it, too.
    assert refusal(shop.with_parts(object_store=shop.objects).send()) == (503, "store_full")
    assert shop.queued() == []


def test_a_redis_that_fills_up_in_between_keeps_nothing(
    tmp_path: Path, server_settings: dict[str, object]
) -> None:
    with embedded_valkey(tmp_path) as url:
        api = Api.on(services_on(server_settings, redis_url=url))
        task_id = api.submit()
        api.finish(task_id)
        charged = api.redis.hkeys(redis_keys.charges_key(""))
        used = api.redis.info("memory")["used_memory"]
        store = WatchedStore(api.objects, lambda _: api.redis.config_set("maxmemory", used - 2**20))
        # It was measured before.
        full = api.with_parts(object_store=store, capacity=Capacity(api.redis, None, clock=Clock()))
        assert refusal(full.send()) == (503, "store_full")
        lost = store.named("put")
        assert lost
        assert {*lost} <= {*store.named("delete")}
        # What was charged is free again, and the next one stores nothing.
        assert api.redis.hkeys(redis_keys.charges_key("")) == charged
        assert refusal(full.send()) == (503, "store_full")
        assert store.named("put") == lost
        assert len(api.redis.zrange("rmbg:jobs:queued", 0, -1)) == 0
        assert full.get(f"/api/v1/tasks/{task_id}").status_code == 200
        assert full.delete(f"/api/v1/tasks/{task_id}").status_code == 200


_TOKEN = "a-token-of-an-operator"


@pytest.mark.parametrize(
    ("token", "address", "headers", "status"),
    [
        (None, "127.0.0.1", {}, 200),
        (None, "::ffff:127.0.0.1", {"Host": "[::1]:8000"}, 200),
        (None, "127.0.0.1", {"Host": "evil.example"}, 403),
        (None, "127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, 403),
        (None, "10.0.0.1", {}, 403),
        (None, "10.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, 403),
        (None, "", {}, 403),
        (_TOKEN, "10.0.0.1", {"Authorization": f"Bearer {_TOKEN}", "Host": "api:8000"}, 200),
        (_TOKEN, "127.0.0.1", {"Authorization": f"Bearer {_TOKEN}x"}, 401),
        (_TOKEN, "127.0.0.1", {"Authorization": "Bearer ü"}, 401),
        (_TOKEN, "127.0.0.1", {"X-API-Key": _TOKEN}, 401),
        (_TOKEN, "127.0.0.1", {}, 401),
    ],
    ids=str,
)
def test_the_metrics_are_for_this_machine_or_who_has_the_token(
    api: Api, token: str | None, address: str, headers: dict[str, str], status: int
) -> None:
    settings = {"metrics_token": SecretStr(token) if token else None, "trusted_proxies": 1}
    asked = api.with_settings(**settings)
    environ = {"REMOTE_ADDR": address}
    assert asked.get("/metrics", headers=headers, environ_base=environ).status_code == status
