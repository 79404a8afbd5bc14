"""Keys, rates and origins, as a caller meets them; real Redis and S3, no worker."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.app import create_app
from api.auth import LOOPBACK_ONLY
from api.services import Services
from api.settings import ApiSettings
from tasks.redis_client import connect

_UNKNOWN_TASK = "/api/v1/tasks/rm-20261122-nothing"


@pytest.fixture
def settings(server_settings: dict[str, object]) -> ApiSettings:
    own = str(server_settings["redis_url"])
    connect(own).flushdb()
    return ApiSettings.load(**{**server_settings, "redis_url": own, "auth": "on"})


@pytest.fixture
def services(settings: ApiSettings, objects: object) -> Services:  # noqa: ARG001 - makes the bucket
    return Services.from_settings(settings)


@pytest.fixture
def client(services: Services) -> Iterator[FlaskClient]:
    with create_app(services).test_client() as client:
        yield client


def _with(services: Services, **settings: object) -> Services:
    return replace(services, settings=services.settings.model_copy(update=settings))


def _type(answer: TestResponse) -> tuple[int, str]:
    return answer.status_code, answer.get_json()["error"]["type"]


def test_without_a_key_the_answer_says_how_to_send_one(client: FlaskClient) -> None:
    answer = client.get(_UNKNOWN_TASK)
    assert _type(answer) == (401, "unauthorized")
    assert answer.get_json()["code"] == 40100
    assert "X-API-Key" in answer.get_json()["message"]
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("form", ["X-API-Key: {}", "Authorization: Bearer {}", "x-api-key:  {} "])
def test_a_key_is_taken_in_either_form_until_it_is_revoked(
    client: FlaskClient, services: Services, form: str
) -> None:
    _, key = services.runtime.api_keys.add("shop")
    name, _, value = form.format(key).partition(": ")
    headers = {name: value} if value else {"x-api-key": key}
    assert _type(client.get(_UNKNOWN_TASK, headers=headers)) == (404, "task_not_found")
    services.runtime.api_keys.revoke("shop")
    answer = client.get(_UNKNOWN_TASK, headers=headers)
    assert _type(answer) == (401, "unauthorized")
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
def test_what_is_no_key_opens_nothing(
    client: FlaskClient, services: Services, headers: dict[str, str]
) -> None:
    services.runtime.api_keys.add("shop")
    assert _type(client.get(_UNKNOWN_TASK, headers=headers)) == (401, "unauthorized")


@pytest.mark.parametrize("path", ["/healthz/live", "/openapi.json", "/docs/"])
def test_what_belongs_to_nobody_needs_no_key(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 200


def test_off_asks_nobody(services: Services) -> None:
    with create_app(_with(services, auth="off")).test_client() as client:
        assert _type(client.get(_UNKNOWN_TASK)) == (404, "task_not_found")


@pytest.mark.parametrize(
    ("local", "keys", "status"),
    [(True, False, 404), (True, True, 401), (False, False, 401), (False, True, 401)],
)
def test_auto_asks_for_a_key_unless_nobody_else_comes_by_and_there_is_none(
    services: Services, *, local: bool, keys: bool, status: int
) -> None:
    if keys:
        services.runtime.api_keys.add("shop")
    app = create_app(_with(services, auth="auto"))
    app.config[LOOPBACK_ONLY] = local
    with app.test_client() as client:
        for headers in ({}, {"X-API-Key": "of nobody"}):
            assert client.get(_UNKNOWN_TASK, headers=headers).status_code == status


def test_while_redis_is_away_nobody_is_let_in(server_settings: dict[str, object]) -> None:
    away = ApiSettings.load(
        **{**server_settings, "redis_url": "redis://127.0.0.1:1/0", "auth": "on"}
    )
    with create_app(Services.from_settings(away)).test_client() as client:
        answer = client.get(_UNKNOWN_TASK, headers={"X-API-Key": "any"})
    assert _type(answer) == (503, "queue_unavailable")


def _submit(client: FlaskClient, coffee: Path, key: str) -> TestResponse:
    with coffee.open("rb") as picture:
        return client.post(
            "/api/v1/remove-bg", data={"image": (picture, "a.jpg")}, headers={"X-API-Key": key}
        )


def test_a_quota_counts_pictures_and_is_told(
    client: FlaskClient, services: Services, coffee: Path
) -> None:
    _, key = services.runtime.api_keys.add("shop", rate_per_minute=2)
    first = _submit(client, coffee, key)
    assert first.status_code == 202
    assert first.headers["RateLimit-Policy"] == '"pictures";q=2;w=60'
    assert re.fullmatch(r'"pictures";r=1;t=\d+', first.headers["RateLimit"])
    assert _submit(client, coffee, key).status_code == 202
    refused = _submit(client, coffee, key)
    assert _type(refused) == (429, "rate_limited")
    assert 1 <= int(refused.headers["Retry-After"]) <= 30
    assert refused.headers["RateLimit"].startswith('"pictures";r=0;')
    # Looking costs nothing, and other keys have their own.
    task = first.get_json()["data"]["task_id"]
    assert client.get(f"/api/v1/tasks/{task}", headers={"X-API-Key": key}).status_code == 200
    _, other = services.runtime.api_keys.add("studio")
    free = _submit(client, coffee, other)
    assert free.status_code == 202
    assert "RateLimit" not in free.headers


def test_only_named_origins_may_call_from_a_browser(services: Services) -> None:
    here = _with(services, cors_origins="https://shop.example, https://studio.example/")
    headers = {
        "Origin": "https://shop.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-api-key",
    }
    with create_app(here).test_client() as client:
        asked = client.options("/api/v1/remove-bg", headers=headers)
        assert asked.status_code == 200
        assert asked.headers["Access-Control-Allow-Origin"] == "https://shop.example"
        assert asked.headers["Access-Control-Allow-Headers"] == "x-api-key"
        assert "POST" in asked.headers["Access-Control-Allow-Methods"]
        seen = client.get(_UNKNOWN_TASK, headers={"Origin": "https://studio.example"})
        assert seen.headers["Access-Control-Allow-Origin"] == "https://studio.example"
        assert "RateLimit" in seen.headers["Access-Control-Expose-Headers"]
        other = client.get(_UNKNOWN_TASK, headers={"Origin": "https://evil.example"})
        assert "Access-Control-Allow-Origin" not in other.headers


def test_no_origin_may_by_default(client: FlaskClient) -> None:
    answer = client.get(_UNKNOWN_TASK, headers={"Origin": "https://shop.example"})
    assert "Access-Control-Allow-Origin" not in answer.headers
