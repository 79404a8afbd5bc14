"""Keys as a caller meets them, and what one key sees of another's: nothing."""

import base64
import re
from urllib.parse import quote

from api.auth import LOOPBACK_ONLY
from tasks.redis_keys import lease_key, upload_lock_key, upload_takeover_key
from tests.support.api import Api
from tests.support.redis_content import content
from tests.support.services import services_on
from tests.support.submissions import PATH, PICTURE, data_of, refusal

SETTINGS = {"auth": "on"}

#: For each variable of a route, a value that nothing has: a new one has to be added here.
NOBODYS = {
    "task_id": "rm-20261122-22222222222222222222",
    "batch_id": "rb-20261122-22222222222222222222",
    "upload_id": "up-22222222222222222222",
    "number": "1",
    "worker": "gpu9@nowhere",
    "webhook_id": "msg_rm-20261122-22222222222222222222_1",
}
_TASK = f"/api/v1/tasks/{NOBODYS['task_id']}"


def test_a_key_is_taken_in_either_form_until_it_is_revoked(api: Api, shop: Api) -> None:
    forms = [{"X-API-Key": f" {shop.key} "}, {"Authorization": f"Bearer {shop.key}"}]
    for headers in forms:
        assert api.error("GET", _TASK, headers=headers) == (404, "task_not_found")
    api.runtime.api_keys.revoke("shop")
    for headers in forms:
        answer = api.get(_TASK, headers=headers)
        assert refusal(answer, "revoked") == (401, "unauthorized")


def test_what_is_no_key_opens_nothing(api: Api) -> None:
    none: list[dict[str, str]] = [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "ü€"},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic cm1iZzpyb21iZw=="},
    ]
    for headers in none:
        answer = api.get(_TASK, headers=headers)
        # It says how to send one.
        assert refusal(answer, "X-API-Key") == (401, "unauthorized"), headers
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    for path in ("/healthz/live", "/openapi.json", "/docs/"):  # which belong to nobody
        assert api.get(path).status_code == 200


def test_auto_asks_for_a_key_unless_nobody_else_comes_by_and_there_is_none(api: Api) -> None:
    def statuses(auth: str, *, local: bool) -> set[int]:
        asking = api.with_settings(auth=auth)
        asking.application.config[LOOPBACK_ONLY] = local
        sent: list[dict[str, str]] = [{}, {"X-API-Key": "of nobody"}]
        return {asking.get(_TASK, headers=headers).status_code for headers in sent}

    assert statuses("auto", local=True) == {404}
    assert statuses("auto", local=False) == {401}
    api.tenant("shop")
    assert statuses("auto", local=True) == {401}
    assert statuses("off", local=False) == {404}


def test_while_redis_is_away_nobody_is_let_in(server_settings: dict[str, object]) -> None:
    away = Api.on(services_on(server_settings, redis_url="redis://127.0.0.1:1/0", auth="on"))
    error = away.error("GET", _TASK, headers={"X-API-Key": "any"})
    assert error == (503, "queue_unavailable")


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
    return [
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in api.application.url_map.iter_rules()
        if rule.arguments and rule.endpoint not in _FILES
        for method in sorted((rule.methods or set()) - {"OPTIONS"})
        if method != "HEAD" or "GET" not in (rule.methods or set())  # which is GET's
    ]


def _everything_of(owner: Api) -> None:
    """Have a caller make at least one of everything that has an id, in each state."""
    hook = {"webhook_url": "https://93.184.216.34/hook"}
    owner.submit(**hook)
    running = owner.submit()
    owner.begin(running)
    owner.redis.expire(lease_key(running), 3600)  # however long the test takes
    owner.finish(owner.submit(**hook))
    items = [{"image_b64": base64.b64encode(PICTURE).decode()}] * 2
    batch = data_of(owner.post(f"{PATH}/batch", json={"items": items, "cache": False}))
    owner.finish(batch["items"][0]["task_id"])
    begun = owner.post("/api/v1/uploads", headers={**_HEADERS, "Upload-Length": "3"}, data=b"a")
    upload_id = begun.headers["Location"].rpartition("/")[2]
    for key in (upload_lock_key, upload_takeover_key):
        owner.redis.set(key(upload_id), "x", ex=3600)


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
    # Nor for whoever sends no key, and a list holds the caller's own tasks alone.
    task = shop.data("/api/v1/tasks")["tasks"][0]
    assert api.get(f"/api/v1/tasks/{task['task_id']}").status_code == 401
    assert studio.data("/api/v1/tasks")["tasks"] == []
