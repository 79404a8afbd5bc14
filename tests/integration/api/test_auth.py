"""Keys as a caller meets them, and what one key sees of another's: nothing."""

import base64
import re
from urllib.parse import urlsplit

import pytest

from api.auth import LOOPBACK_ONLY
from tasks.object_store import original_key
from tests.support.api import Api
from tests.support.services import services_on
from tests.support.submissions import PATH, PICTURE, data_of, refusal

SETTINGS = {"auth": "on"}

_UNKNOWN_TASK = "/api/v1/tasks/rm-20261122-nothing"


def test_without_a_key_the_answer_says_how_to_send_one(api: Api) -> None:
    answer = api.get(_UNKNOWN_TASK)
    assert refusal(answer) == (401, "unauthorized")
    assert answer.get_json()["code"] == 40100
    assert "X-API-Key" in answer.get_json()["message"]
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("header", "form"), [("X-API-Key", "{}"), ("Authorization", "Bearer {}"), ("x-api-key", " {} ")]
)
def test_a_key_is_taken_in_either_form_until_it_is_revoked(
    api: Api, header: str, form: str
) -> None:
    _, key = api.runtime.api_keys.add("shop")
    headers = {header: form.format(key)}
    assert refusal(api.get(_UNKNOWN_TASK, headers=headers)) == (404, "task_not_found")
    api.runtime.api_keys.revoke("shop")
    answer = api.get(_UNKNOWN_TASK, headers=headers)
    assert refusal(answer) == (401, "unauthorized")
    assert "revoked" in answer.get_json()["message"]


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": "wrong"},
        {"X-API-Key": ""},
        {"X-API-Key": "ü€"},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic cm1iZzpyb21iZw=="},
        {"Authorization": ""},
    ],
    ids=str,
)
def test_what_is_no_key_opens_nothing(api: Api, headers: dict[str, str]) -> None:
    api.runtime.api_keys.add("shop")
    assert refusal(api.get(_UNKNOWN_TASK, headers=headers)) == (401, "unauthorized")


@pytest.mark.parametrize("path", ["/healthz/live", "/openapi.json", "/docs/"])
def test_what_belongs_to_nobody_needs_no_key(api: Api, path: str) -> None:
    assert api.get(path).status_code == 200


@pytest.mark.parametrize(
    ("auth", "local", "keys", "status"),
    [
        ("off", False, True, 404),
        ("auto", True, False, 404),
        ("auto", True, True, 401),
        ("auto", False, False, 401),
        ("auto", False, True, 401),
    ],
)
def test_auto_asks_for_a_key_unless_nobody_else_comes_by_and_there_is_none(
    api: Api, auth: str, *, local: bool, keys: bool, status: int
) -> None:
    if keys:
        api.runtime.api_keys.add("shop")
    asking = api.with_settings(auth=auth)
    asking.application.config[LOOPBACK_ONLY] = local
    for headers in ({}, {"X-API-Key": "of nobody"}):
        assert asking.get(_UNKNOWN_TASK, headers=headers).status_code == status


def test_while_redis_is_away_nobody_is_let_in(server_settings: dict[str, object]) -> None:
    away = services_on(server_settings, redis_url="redis://127.0.0.1:1/0", auth="on")
    answer = Api.on(away).get(_UNKNOWN_TASK, headers={"X-API-Key": "any"})
    assert refusal(answer) == (503, "queue_unavailable")


def test_a_quota_counts_pictures_and_is_stated(api: Api, studio: Api) -> None:
    shop = api.tenant("shop", rate_per_minute=2)
    first, second, refused = shop.send(), shop.send(), shop.send()
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.headers["RateLimit-Policy"] == '"pictures";q=2;w=60'
    assert re.fullmatch(r'"pictures";r=1;t=\d+', first.headers["RateLimit"])
    assert refusal(refused) == (429, "rate_limited")
    assert 1 <= int(refused.headers["Retry-After"]) <= 30
    assert refused.headers["RateLimit"].startswith('"pictures";r=0;')
    # Looking costs nothing, and other keys have their own.
    assert shop.data(f"/api/v1/tasks/{data_of(first)['task_id']}")
    free = studio.send()
    assert free.status_code == 202
    assert "RateLimit" not in free.headers


def test_a_repeated_request_costs_nothing(api: Api) -> None:
    shop = api.tenant("shop", rate_per_minute=1)
    first = data_of(shop.send(key="k"))["task_id"]
    assert data_of(shop.send(key="k"))["task_id"] == first
    assert refusal(shop.send(key="l")) == (429, "rate_limited")


@pytest.mark.parametrize("done", [True, False], ids=["done", "queued"])
def test_anothers_task_is_not_there(shop: Api, studio: Api, api: Api, *, done: bool) -> None:
    task_id = shop.submit(webhook_url="https://93.184.216.34/hook")
    if done:
        api.finish(task_id)
    before = api.job(task_id)
    assert before.owner == shop.owner
    for method, path in [
        ("GET", ""),
        ("GET", "?wait=1"),
        ("GET", "/result"),
        ("GET", "/events"),
        ("GET", "/deliveries"),
        ("POST", "/deliveries/1/replay"),
        ("POST", "/cancel"),
        ("DELETE", ""),
        ("HEAD", ""),
        ("HEAD", "/events"),
    ]:
        theirs = studio.open(f"/api/v1/tasks/{task_id}{path}", method=method)
        nobodys = studio.open(_UNKNOWN_TASK + path, method=method)
        assert theirs.status_code == nobodys.status_code == 404, (method, path)
        if method != "HEAD":
            foreign, unknown = theirs.get_json(), nobodys.get_json()
            assert foreign["error"]["type"] == "task_not_found"
            assert {**foreign, "request_id": ""} == {**unknown, "request_id": ""}
    assert api.job(task_id) == before
    assert api.objects.get(original_key(task_id))
    # Nor for whoever sends no key.
    assert api.get(f"/api/v1/tasks/{task_id}").status_code == 401


def test_anothers_batch_is_not_there(shop: Api, studio: Api) -> None:
    items = [{"image_b64": base64.b64encode(PICTURE).decode()}]
    made = data_of(shop.post(f"{PATH}/batch", json={"items": items}))
    batch = f"/api/v1/batches/{made['batch_id']}"
    for method, path in [("GET", ""), ("GET", "/archive"), ("POST", "/cancel"), ("DELETE", "")]:
        assert studio.error(method, batch + path) == (404, "batch_not_found"), (method, path)
    assert shop.data(batch)["total"] == 1


def test_anothers_upload_is_not_there(shop: Api, studio: Api) -> None:
    tus = {"Tus-Resumable": "1.0.0"}
    begun = shop.post("/api/v1/uploads", headers={**tus, "Upload-Length": "3"})
    assert begun.status_code == 201
    path = urlsplit(begun.headers["Location"]).path
    piece = {**tus, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    missing = (404, "upload_not_found")
    assert studio.head(path, headers=tus).status_code == 404
    assert studio.error("PATCH", path, headers=piece, data=b"abc") == missing
    assert studio.error("DELETE", path, headers=tus) == missing
    assert shop.patch(path, headers=piece, data=b"abc").status_code == 204
    upload = {"upload_id": path.rpartition("/")[2]}
    assert studio.error("POST", PATH, json=upload) == missing
    assert shop.head(path, headers=tus).status_code == 200


def test_a_list_holds_the_callers_own_tasks_alone(shop: Api, studio: Api) -> None:
    mine, _ = shop.submit(), studio.submit()
    assert [each["task_id"] for each in shop.data("/api/v1/tasks")["tasks"]] == [mine]
