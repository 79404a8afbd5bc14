"""remove.bg's API before a picture is worked on: its errors, its headers, what it takes."""

from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient

from api.app import create_app
from api.services import Services
from tests.support.removebg_requests import (
    PICTURE,
    REMOVE,
    accepted,
    error_of,
    file,
    latest_job,
    picture,
    post,
    send,
)
from tests.support.services import services_on, with_settings
from tests.support.submissions import bomb, png
from tests.support.websites import website

SETTINGS = {"max_image_mb": 1}
MB = 2**20


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({}, "missing_source"),
        ({"image_url": "example.com/a.jpg"}, "invalid_image_url"),
        ({"image_url": "ftp://example.com/a"}, "invalid_image_url"),
        ({"image_file_b64": "not base64!"}, "failed_to_read_image"),
        (
            {"image_file_b64": "AAAA", "image_url": "http://example.com/a.jpg"},
            "multiple_sources",
        ),
    ],
    ids=str,
)
def test_a_source_that_will_not_do(
    client: FlaskClient, parameters: dict[str, str], code: str
) -> None:
    assert error_of(send(client, **parameters)) == (400, code)
    assert error_of(client.post(REMOVE, json=parameters)) == (400, code)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"just some words, whatever the name says", "invalid_file_type"),
        (b"%PDF-1.7 and so on", "invalid_file_type"),
        (picture()[:300], "failed_to_read_image"),
        (picture(size=(60, 1)), "invalid_dimensions"),
        (bomb(), "resolution_too_high"),
        (b"", "failed_to_read_image"),
        (PICTURE + bytes(MB), "file_too_large"),
        (PICTURE + bytes(4 * MB), "file_too_large"),
    ],
    ids=[
        "text",
        "pdf",
        "cut off",
        "one row",
        "too many pixels",
        "empty",
        "over the limit",
        "over the limit of a request",
    ],
)
def test_what_cannot_be_used_as_a_picture(client: FlaskClient, data: bytes, code: str) -> None:
    assert error_of(post(client, data)) == (400, code)
    assert error_of(post(client, bg_image_file=file(data))) == (400, code)


def test_a_file_is_judged_by_its_bytes(client: FlaskClient) -> None:
    # Trap 7: a JPEG under the name and type of something else.
    disguised = file(picture("JPEG"), "photo.txt.png", "text/plain")
    assert accepted(post(client, image_file=disguised))


def test_a_browsers_empty_file_field_is_absent(client: FlaskClient) -> None:
    blank = file(b"", "", "application/octet-stream")
    assert accepted(post(client, bg_image_file=blank, bg_color="red"))


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    files = {
        "/a.png": PICTURE,
        "/page": b"<!doctype html>" * 9,
        "/large.png": PICTURE + bytes(2 * MB),
        "/empty": b"",
    }
    with website(files) as address:
        yield address


def test_pictures_by_address(server_settings: dict[str, object], site: str) -> None:
    services = services_on(server_settings, max_image_mb=1, url_allow="127.0.0.1")
    client = create_app(services).test_client()
    assert accepted(send(client, image_url=f"{site}/a.png"))
    assert accepted(client.post(REMOVE, json={"image_url": f"{site}/a.png"}))
    for path, code in {
        "/nothing": "failed_{}_download",
        "/empty": "failed_{}_download",
        "/page": "invalid_file_type",
        "/large.png": "file_too_large",
    }.items():
        answer = send(client, image_url=site + path)
        assert error_of(answer) == (400, code.format("image"))
        answer = post(client, bg_image_url=site + path)
        assert error_of(answer) == (400, code.format("bg"))
    assert accepted(post(client, bg_image_url=f"{site}/a.png"))
    behind = latest_job(services).background_key
    assert services.runtime.object_store.get(str(behind)) == PICTURE


def test_inner_addresses_are_no_addresses(client: FlaskClient, site: str) -> None:
    assert error_of(send(client, image_url=f"{site}/a.png")) == (400, "invalid_image_url")
    assert error_of(post(client, bg_image_url=f"{site}/a.png")) == (400, "invalid_bg_image_url")


def test_a_background_may_be_as_large_as_the_picture(client: FlaskClient) -> None:
    data = PICTURE + bytes(MB - len(PICTURE))
    assert accepted(post(client, data, bg_image_file=file(data)))


def test_a_background_file_goes_along(client: FlaskClient, services: Services) -> None:
    behind = picture("JPEG")
    assert accepted(post(client, bg_image_file=file(behind, "bg.jpg"), format="jpg"))
    job = latest_job(services)
    assert services.runtime.object_store.get(str(job.background_key)) == behind
    assert job.options["background_sha256"]
    assert job.options["matte_color"] is None


@pytest.fixture(scope="module")
def guarded(services: Services) -> FlaskClient:
    """The API with keys on."""
    return create_app(with_settings(services, auth="on")).test_client()


@pytest.mark.parametrize(
    ("headers", "title"),
    [
        ({}, "Missing API Key"),
        ({"X-Api-Key": ""}, "Missing API Key"),
        ({"X-Api-Key": "wrong"}, "API Key invalid"),
        ({"Authorization": "Bearer wrong"}, "API Key invalid"),
    ],
)
def test_a_bad_key_is_403(guarded: FlaskClient, headers: dict[str, str], title: str) -> None:
    for answer in (
        guarded.post(REMOVE, headers=headers),
        guarded.get("/v1.0/account", headers=headers),
        guarded.post("/v1.0/improve", headers=headers),
    ):
        assert answer.status_code == 403
        assert answer.get_json() == {"errors": [{"title": title, "code": "auth_failed"}]}


@pytest.mark.parametrize("header", ["X-Api-Key: {}", "x-api-key: {}", "Authorization: Bearer {}"])
def test_a_good_key_in_any_form(guarded: FlaskClient, services: Services, header: str) -> None:
    _, key = services.runtime.api_keys.add("shop")
    name, _, value = header.format(key).partition(": ")
    assert guarded.get("/v1.0/account", headers={name: value}).status_code == 200


def test_with_keys_off_any_key_or_none_will_do(client: FlaskClient) -> None:
    for headers in ({}, {"X-Api-Key": "whatever"}, {"X-Api-Key": "%API_KEY%"}):
        assert client.get("/v1.0/account", headers=headers).status_code == 200


def test_the_account_has_no_key_more_and_none_less(client: FlaskClient) -> None:
    attributes = client.get("/v1.0/account").get_json()["data"]["attributes"]
    assert set(attributes) == {"credits", "api"}
    assert set(attributes["credits"]) == {"total", "subscription", "payg", "enterprise"}
    assert set(attributes["api"]) == {"free_calls", "sizes"}
    assert attributes["credits"]["total"] > 0
    assert attributes["api"]["sizes"] == "all"


def test_improve_keeps_a_picture_only_where_that_is_wanted(services: Services) -> None:
    before = set(services.runtime.object_store.list("improvements/"))
    for keep in (False, True):
        client = create_app(with_settings(services, removebg_keep_improvements=keep)).test_client()
        answer = send(client, "/v1.0/improve", image_file=file(), tag="shop")
        assert answer.status_code == 200
        assert set(answer.get_json()) == {"id"}
        assert error_of(client.post("/v1.0/improve")) == (400, "missing_source")
        added = set(services.runtime.object_store.list("improvements/")) - before
        assert added == ({f"improvements/{answer.get_json()['id']}"} if keep else set())


def test_over_the_rate_it_says_when_to_come_again(services: Services) -> None:
    limited = with_settings(services, removebg_megapixels_per_minute=10)
    client = create_app(limited).test_client()
    # A picture costs its megapixels, and at least 1.
    pictures = [(PICTURE, "9"), (png(size=(3000, 3000)), "0")]
    for data, left in pictures:
        answer = post(client, data)
        assert accepted(answer)
        assert answer.headers["X-RateLimit-Limit"] == "10"
        assert answer.headers["X-RateLimit-Remaining"] == left
        assert int(answer.headers["X-RateLimit-Reset"]) > 1.7e9
    refused = post(client)
    assert error_of(refused) == (429, "rate_limit_exceeded")
    assert refused.get_json()["errors"][0]["title"] == "Rate limit exceeded"
    assert 1 <= int(refused.headers["Retry-After"]) <= 6


def test_any_web_page_may_call(client: FlaskClient) -> None:
    asked = client.options(REMOVE, headers={"Origin": "https://shop.example"})
    assert asked.status_code == 200
    assert asked.headers["Access-Control-Allow-Origin"] == "*"
    assert "X-Api-Key" in asked.headers["Access-Control-Allow-Headers"]
    assert "POST" in asked.headers["Access-Control-Allow-Methods"]
    assert client.options("/v1.0/nothing").headers["Access-Control-Allow-Methods"] == "POST"
    refused = client.get(REMOVE)
    assert "POST" in refused.headers["Allow"]
    assert "X-Width" in refused.headers["Access-Control-Expose-Headers"]
