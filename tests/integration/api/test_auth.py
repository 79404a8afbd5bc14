"""Keys as a caller meets them, and what one key sees of another's: nothing."""

import base64
import re
from urllib.parse import quote

import pytest

from api.auth import LOOPBACK_ONLY
from tasks.redis_keys import lease_key, upload_lock_key, upload_takeover_key
from tests.support.api import Api
from tests.support.redis_content import content
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


#: For each variable of a route, a value that nothing has: a new one has to be added here.
NOBODYS = {
    "task_id": "rm-20261122-22222222222222222222",
    "batch_id": "rb-20261122-22222222222222222222",
    "upload_id": "up-22222222222222222222",
    "number": "1",
    "worker": "gpu9@nowhere",
    "webhook_id": "msg_rm-20261122-22222222222222222222_1",
}
#: Endpoints of the pages' files, which belong to nobody.
_FILES = {"swagger_ui.show", "web.page_file"}
#: What makes each method a request that the routes take.
_HEADERS = {
    "Tus-Resumable": "1.0.0",
    "Upload-Offset": "0",
    "X-HTTP-Method-Override": "DELETE",
    "Content-Type": "application/offset+octet-stream",
}


def _routes(api: Api) -> list[tuple[str, str]]:
    """Method and template, such as `/api/v1/tasks/{task_id}`, of each route that takes an id."""
    rules = api.application.url_map.iter_rules()
    return [
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in rules
        if rule.arguments and rule.endpoint not in _FILES
        for method in sorted((rule.methods or set()) - {"OPTIONS"})
    ]


def _everything_of(owner: Api) -> None:
    """Have a caller make at least one of everything that has an id, in each state."""
    hook = {"webhook_url": "https://93.184.216.34/hook"}
    owner.submit(**hook)
    running = owner.submit()
    owner.begin(running)
    owner.redis.persist(lease_key(running))  # however long the test takes
    owner.finish(owner.submit(**hook))
    items = [{"image_b64": base64.b64encode(PICTURE).decode()}] * 2
    batch = data_of(owner.post(f"{PATH}/batch", json={"items": items, "cache": False}))
    owner.finish(batch["items"][0]["task_id"])
    begun = owner.post("/api/v1/uploads", headers={**_HEADERS, "Upload-Length": "3"}, data=b"a")
    upload_id = begun.headers["Location"].rpartition("/")[2]
    for key in (upload_lock_key, upload_takeover_key):
        owner.redis.set(key(upload_id), "x")


def _answer(caller: Api, method: str, template: str, text: str) -> tuple[object, ...]:
    """What a caller learns from an answer; a new one knows no more than its own id."""
    values = {name: text if name.endswith("_id") else value for name, value in NOBODYS.items()}
    path = template.format(**{name: quote(value, safe="") for name, value in values.items()})
    got = caller.open(path, method=method, headers=_HEADERS, data=b"bc")
    headers = {name: value for name, value in got.headers.items() if name != "X-Request-Id"}
    return got.status_code, headers, {**(got.get_json(silent=True) or {}), "request_id": ""}


def test_what_is_anothers_or_no_id_is_not_there(shop: Api, studio: Api, api: Api) -> None:
    """Each route answers to every name in Redis as to an id that never was."""
    _everything_of(shop)
    parts = [name.split(":") for name in content(api.redis)]
    # Of names that differ by ids and times alone, one stands for all.
    shapes = {
        re.sub(r"[0-9a-z]{16,}|\d+", "#", name): name
        for name in sorted(":".join(name[start:]) for name in parts for start in (-1, -2))
    }
    names = set(shapes.values())
    assert {name.rpartition(":")[2] for name in names} >= {"lease", "items", "ends", "lock"}
    names |= {"*", "nan", "\0", "\n", "ü", f"{NOBODYS['task_id']}\n", "9" * 4300, "x" * 2000}
    routes = _routes(api)
    assert len(routes) > 15
    # Its count of bytes, of which a submission reserves some while it is judged.
    assert studio.error("POST", PATH, json={"upload_id": NOBODYS["upload_id"]})[0] == 404
    before = content(api.redis)
    for method, template in routes:
        ids = {text for name, text in NOBODYS.items() if name.endswith("_id")}
        nobodys = {text: _answer(studio, method, template, text) for text in ids}
        (unknown,) = {repr(each): each for each in nobodys.values()}.values()
        if template.startswith("/api/v1/ops/"):  # refused before anything is looked up
            assert unknown[0] == 403, (method, template)
            continue
        assert unknown[0] == 404, (method, template)
        for text in names:
            assert _answer(studio, method, template, text) == unknown, (method, template, text)
            if ":" in text:
                assert _answer(shop, method, template, text) == unknown, (method, template, text)
    for text in names:
        assert studio.error("POST", PATH, json={"upload_id": text})[0] in {404, 422}, text
    assert content(api.redis) == before
    # Nor for whoever sends no key.
    task_id = shop.data("/api/v1/tasks")["tasks"][0]["task_id"]
    assert api.get(f"/api/v1/tasks/{task_id}").status_code == 401


def test_a_list_holds_the_callers_own_tasks_alone(shop: Api, studio: Api) -> None:
    mine, _ = shop.submit(), studio.submit()
    assert [each["task_id"] for each in shop.data("/api/v1/tasks")["tasks"]] == [mine]
