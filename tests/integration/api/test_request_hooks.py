"""Whatever goes wrong, and wherever: one shape of answer; and HEAD and OPTIONS on every route."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def _checked(answer: TestResponse) -> tuple[int, str]:
    """Return status and type of a failure, whose shape is checked."""
    body = answer.get_json()
    assert answer.mimetype == "application/json", answer.data
    assert set(body["error"]) == {"type", "fields"}
    assert answer.headers["X-Request-Id"] == body["request_id"]
    return refusal(answer)


def _json(text: bytes) -> dict[str, Any]:
    return {"data": text, "content_type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "kind"),
    [
        ("GET", "/nowhere", {}, 404, "not_found"),
        ("GET", "/api/v1/tasks/rm-unknown?wait=30", {}, 404, "task_not_found"),
        ("GET", PATH, {}, 405, "method_not_allowed"),
        ("DELETE", "/healthz/live", {}, 405, "method_not_allowed"),
        ("BREW", "/api/v1/tasks", {}, 405, "method_not_allowed"),
        ("GET", "/api/v1/tasks?limit=NaN", {}, 422, "invalid_parameter"),
        ("GET", "/api/v1/tasks/rm-1?wiat=1", {}, 422, "unknown_parameter"),
        ("GET", "/api/v1/tasks/rm-1?wait=inf", {}, 422, "invalid_parameter"),
        ("POST", PATH, {"content_type": "text/xml"}, 415, "unsupported_media_type"),
        ("POST", PATH, {}, 400, "missing_image"),
        ("POST", PATH, {"data": {"image": "text"}}, 400, "missing_image"),
        ("POST", PATH, {"data": {"a": "b"}}, 422, "unknown_parameter"),
        ("POST", PATH, {"data": {"metadata": '{"a": NaN}'}}, 422, "invalid_parameter"),
        ("POST", PATH, _json(b""), 400, "bad_request"),
        ("POST", PATH, _json(b"[1]"), 400, "bad_request"),
        ("POST", PATH, _json(b'{"metadata": {"a": 1e400}}'), 400, "bad_request"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_does_not_fit_is_answered_in_the_envelope(
    shop: Api, method: str, path: str, *, sent: dict[str, Any], status: int, kind: str
) -> None:
    answer = shop.open(path, method=method, **sent)
    assert _checked(answer) == (status, kind)
    assert (status == 405) == ("Allow" in answer.headers)


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
    ends = {"": "GET", "/result": "GET", "/events": "GET", "/deliveries": "GET", "/cancel": "POST"}
    for end, method in [*ends.items(), ("", "DELETE")]:
        with capture_logs() as lines:
            answer = shop.open(f"/api/v1/tasks/{task_id}{end}", method=method)
        assert _checked(answer) == (500, "task_unreadable")
        assert "secret" not in answer.text
        logged = [line["task_id"] for line in lines if line["event"] == "record.unreadable"]
        assert logged == [task_id]
    assert [each["task_id"] for each in shop.data("/api/v1/tasks")["tasks"]] == [other]


def test_the_callers_request_id_is_kept_unless_it_could_forge_log_lines(api: Api) -> None:
    for given, kept in (("order-17", "order-17"), ("a b {evil}", r"req-\w+")):
        answer = api.get("/healthz/live", headers={"X-Request-Id": given})
        assert re.fullmatch(kept, answer.headers["X-Request-Id"])
        assert answer.get_json()["request_id"] == answer.headers["X-Request-Id"]


def test_no_cache_keeps_what_one_caller_may_see_and_no_page_frames_an_answer(shop: Api) -> None:
    task = f"/api/v1/tasks/{shop.submit()}"
    own = ["/api/v1/info", "/api/v1/tasks", task, f"{task}/original", f"{task}/events"]
    own += ["/api/v1/nowhere", "/v1.0/account", "/v1.0/nowhere"]
    for path in (*own, "/", "/docs/", "/openapi.json", "/nowhere"):
        headers = shop.head(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff", path
        assert headers["X-Frame-Options"] == "DENY", path
        assert (headers.get("Cache-Control") == "no-store") == (path in own), path


def _routes(app: Flask, *more: str) -> Iterator[tuple[str, set[str]]]:
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith(("/api/", "/healthz/", *more)) or rule.rule == "/openapi.json":
            yield rule.rule, set(rule.methods or ())


def test_options_names_the_methods_of_every_route_and_needs_no_key(api: Api) -> None:
    allowed: dict[str, set[str]] = {}
    for rule, methods in _routes(api.application):
        allowed.setdefault(re.sub(r"<[^>]+>", "1", rule), set()).update(methods)
    assert len(allowed) > 8
    for path, methods in allowed.items():
        answer = api.options(path)
        assert (answer.status_code // 100, answer.data) == (2, b""), path
        if "Allow" in answer.headers:
            assert set(answer.headers["Allow"].split(", ")) == methods, path
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
            assert (headed.status_code, headed.data) == (got.status_code, b""), path
            assert headed.content_type == got.content_type


def test_only_named_origins_may_call_from_a_browser_and_none_by_default(api: Api) -> None:
    shop, studio = "https://shop.example", "https://studio.example"
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    for origins, origin, allowed in (
        ("", shop, None),
        ("*", shop, shop),
        (f"{shop}, {studio}/", studio, studio),
        (f"{shop}, {studio}/", "https://evil.example", None),
        ("https://[fd00::1]", "https://[fd00::1]", "https://[fd00::1]"),
        ("https://[fd00::1]", "https://d.evil.example", None),
    ):
        calls = api.with_settings(cors_origins=origins)
        for path, exposed in ((PATH, "RateLimit"), ("/v1.0/removebg", "X-Width")):
            asked = calls.options(path, headers={"Origin": origin, **asks})
            assert asked.status_code == 200
            assert asked.headers.get("Access-Control-Allow-Origin") == allowed
            assert asked.headers.get("Access-Control-Allow-Headers") == (allowed and "x-api-key")
            assert "POST" in asked.headers.get("Access-Control-Allow-Methods", "POST")
            seen = calls.get(path, headers={"Origin": origin}).headers
            assert seen.get("Access-Control-Allow-Origin") == allowed
            shown = seen.get("Access-Control-Expose-Headers", "")
            assert (exposed in shown) == bool(allowed)


def test_without_room_nothing_is_kept_and_the_rest_goes_on(
    shop: Api, api: Api, tmp_path: Path
) -> None:
    kept, canceled = shop.submit(), shop.submit()
    upload = shop.post(_UPLOADS, headers=_TUS | {"Upload-Length": "9"}).headers["Location"]
    shop.finish(kept)
    before = content(shop.redis)
    store = WatchedStore(shop.objects)
    room = Capacity(shop.redis, tmp_path, free=lambda _: FREE_BYTES - 1)
    full = shop.with_parts(capacity=room, object_store=store)
    # Who has no key does not learn of it.
    for path, status in ((PATH, 401), ("/v1.0/removebg", 403)):
        assert api.with_parts(capacity=room).post(path).status_code == status
    goes_on, refused = set[str](), set[str]()
    for rule, methods in _routes(shop.application, "/v1.0/"):
        path = re.sub(r"<int:[^>]+>", "1", re.sub(r"<string:[^>]+>", kept, rule))
        for method in methods & {"POST", "PUT", "PATCH"}:
            answer = full.open(path, method=method, headers=_TUS)
            is_full = answer.status_code == 503 and b"store_full" in answer.data
            (refused if is_full else goes_on).add(path)
            assert not is_full or int(answer.headers["Retry-After"]) >= 60
    assert goes_on == {
        f"/api/v1/tasks/{kept}/cancel",
        f"/api/v1/batches/{kept}/cancel",
        f"/api/v1/tasks/{kept}/deliveries/1/replay",
    }
    assert {PATH, f"{PATH}/batch", _UPLOADS, "/v1.0/removebg"} <= refused
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


@pytest.mark.parametrize("cache", ["false", "true"])
def test_a_redis_that_fills_up_in_between_keeps_nothing(
    tmp_path: Path, server_settings: dict[str, object], cache: str
) -> None:
    with embedded_valkey(tmp_path) as url:
        api = Api.on(services_on(server_settings, redis_url=url))
        task_id = api.submit(cache=cache)
        api.finish(task_id)
        charged = api.redis.hkeys(redis_keys.charges_key(""))
        store = WatchedStore(api.objects, lambda _: api.redis.config_set("maxmemory", 1))
        # It was measured before.
        full = api.with_parts(object_store=store, capacity=Capacity(api.redis, None, clock=Clock()))
        assert refusal(full.send(cache=cache)) == (503, "store_full")
        lost = store.named("put")
        assert lost
        assert {*lost, *(call[-1] for call in store.calls if call[0] == "copy")} <= {
            *store.named("delete")
        }
        # What was charged is free again, and the next one stores nothing.
        assert api.redis.hkeys(redis_keys.charges_key("")) == charged
        assert refusal(full.send(cache=cache)) == (503, "store_full")
        assert store.named("put") == lost
        assert api.queued() == []
        assert full.get(f"/api/v1/tasks/{task_id}").status_code == 200
        assert full.delete(f"/api/v1/tasks/{task_id}").status_code == 200


_TOKEN = "a-token-of-an-operator"


def test_the_metrics_are_for_this_machine_or_who_has_the_token(api: Api) -> None:
    bearer = {"Authorization": f"Bearer {_TOKEN}", "Host": "api:8000"}
    asked = api.with_settings(trusted_proxies=1)
    guarded = api.with_settings(trusted_proxies=1, metrics_token=SecretStr(_TOKEN))
    for called, address, headers, status in (
        (asked, "127.0.0.1", {}, 200),
        (asked, "::ffff:127.0.0.1", {"Host": "[::1]:8000"}, 200),
        (asked, "127.0.0.1", {"Host": "evil.example"}, 403),
        (asked, "127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, 403),
        (asked, "10.0.0.1", {}, 403),
        (asked, "", {}, 403),
        (guarded, "10.0.0.1", bearer, 200),
        (guarded, "127.0.0.1", {"Authorization": f"Bearer {_TOKEN}x"}, 401),
        (guarded, "127.0.0.1", {"Authorization": "Bearer ü"}, 401),
        (guarded, "127.0.0.1", {}, 401),
    ):
        answer = called.get("/metrics", headers=headers, environ_base={"REMOTE_ADDR": address})
        assert answer.status_code == status, (address, headers)
