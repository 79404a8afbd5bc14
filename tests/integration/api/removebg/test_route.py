"""remove.bg's API before a picture is worked on: its errors, its headers, what it takes."""

import pytest

from tasks.errors import UrlUnreachableError
from tasks.net.http_client import HttpClient
from tests.support.api import Api
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
from tests.support.services import services_on
from tests.support.submissions import bomb, png

SETTINGS = {"max_image_mb": 1}
MB = 2**20
ORIGIN = "https://shop.example"


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({}, "missing_source"),
        ({"image_url": "example.com/a.jpg"}, "invalid_image_url"),
        ({"image_url": "ftp://example.com/a"}, "invalid_image_url"),
        ({"image_file_b64": "not base64!"}, "failed_to_read_image"),
        ({"image_file_b64": "AAAA", "image_url": "http://example.com/a.jpg"}, "multiple_sources"),
    ],
    ids=str,
)
def test_a_source_that_will_not_do(api: Api, parameters: dict[str, str], code: str) -> None:
    assert error_of(send(api, **parameters)) == (400, code)
    assert error_of(api.post(REMOVE, json=parameters)) == (400, code)


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
    ids=["text", "pdf", "cut off", "one row", "pixels", "empty", "large", "larger than a request"],
)
def test_what_cannot_be_used_as_a_picture(api: Api, data: bytes, code: str) -> None:
    assert error_of(post(api, data)) == (400, code)
    assert error_of(post(api, bg_image_file=file(data))) == (400, code)


def test_a_file_is_judged_by_its_bytes_and_an_empty_field_is_absent(api: Api) -> None:
    # Trap 7: a JPEG under the name and type of something else.
    disguised = file(picture("JPEG"), "photo.txt.png", "text/plain")
    # What a browser sends of a file field that was left empty.
    blank = file(b"", "", "application/octet-stream")
    assert accepted(post(api, image_file=disguised, bg_image_file=blank, bg_color="red"))


def test_pictures_by_address(server_settings: dict[str, object], site: str) -> None:
    api = Api.on(services_on(server_settings, max_image_mb=1, url_allow="127.0.0.1"))
    assert accepted(send(api, image_url=f"{site}/cup.png"))
    assert accepted(api.post(REMOVE, json={"image_url": f"{site}/cup.png"}))
    for path, code in {
        "/nothing": "failed_{}_download",
        "/empty.png": "failed_{}_download",
        "/page.html": "invalid_file_type",
        "/large.png": "file_too_large",
    }.items():
        answer = send(api, image_url=site + path)
        assert error_of(answer) == (400, code.format("image"))
        answer = post(api, bg_image_url=site + path)
        assert error_of(answer) == (400, code.format("bg"))
    assert accepted(post(api, bg_image_url=f"{site}/cup.png"))
    behind = latest_job(api).background_key
    assert api.objects.get(str(behind)) == png()


def test_inner_addresses_are_no_addresses(api: Api, site: str) -> None:
    assert error_of(send(api, image_url=f"{site}/cup.png")) == (400, "invalid_image_url")
    assert error_of(post(api, bg_image_url=f"{site}/cup.png")) == (400, "invalid_bg_image_url")


def test_a_background_file_goes_along_and_may_be_as_large_as_the_picture(api: Api) -> None:
    data, behind = (each + bytes(MB - len(each)) for each in (PICTURE, picture("JPEG")))
    assert accepted(post(api, data, bg_image_file=file(behind, "bg.jpg"), format="jpg"))
    job = latest_job(api)
    assert api.objects.get(str(job.background_key)) == behind
    assert job.options["background_sha256"]
    assert job.options["matte_color"] is None


@pytest.fixture(scope="module")
def guarded(api: Api) -> Api:
    """The API with keys on."""
    return api.with_settings(auth="on")


@pytest.mark.parametrize(
    ("headers", "title"),
    [
        ({}, "Missing API Key"),
        ({"X-Api-Key": ""}, "Missing API Key"),
        ({"X-Api-Key": "wrong"}, "API Key invalid"),
        ({"Authorization": "Bearer wrong"}, "API Key invalid"),
    ],
)
def test_a_bad_key_is_403(guarded: Api, headers: dict[str, str], title: str) -> None:
    for answer in (
        guarded.post(REMOVE, headers=headers),
        guarded.get("/v1.0/account", headers=headers),
        guarded.post("/v1.0/improve", headers=headers),
    ):
        assert answer.status_code == 403
        assert answer.get_json() == {"errors": [{"title": title, "code": "auth_failed"}]}


@pytest.mark.parametrize("header", ["X-Api-Key: {}", "x-api-key: {}", "Authorization: Bearer {}"])
def test_a_good_key_in_any_form(guarded: Api, api: Api, header: str) -> None:
    _, key = api.runtime.api_keys.add("shop")
    name, _, value = header.format(key).partition(": ")
    assert guarded.get("/v1.0/account", headers={name: value}).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"X-Api-Key": "none"}, {"X-Api-Key": "%API_KEY%"}])
def test_with_keys_off_any_key_or_none_will_do(api: Api, headers: dict[str, str]) -> None:
    attributes = api.get("/v1.0/account", headers=headers).get_json()["data"]["attributes"]
    # The account has no key more and none less.
    assert set(attributes) == {"credits", "api"}
    assert set(attributes["credits"]) == {"total", "subscription", "payg", "enterprise"}
    assert set(attributes["api"]) == {"free_calls", "sizes"}
    assert attributes["credits"]["total"] > 0
    assert attributes["api"]["sizes"] == "all"


def test_improve_keeps_a_picture_only_where_that_is_wanted(api: Api) -> None:
    before = set(api.objects.list("improvements/"))
    for keep in (False, True):
        keeping = api.with_settings(removebg_keep_improvements=keep)
        answer = send(keeping, "/v1.0/improve", image_file=file(), tag="shop")
        assert answer.status_code == 200
        assert set(answer.get_json()) == {"id"}
        assert error_of(keeping.post("/v1.0/improve")) == (400, "missing_source")
        added = set(api.objects.list("improvements/")) - before
        assert added == ({f"improvements/{answer.get_json()['id']}"} if keep else set())


def test_over_the_rate_it_says_when_to_come_again(api: Api) -> None:
    limited = api.with_settings(removebg_megapixels_per_minute=10)
    # A picture costs its megapixels, and at least 1.
    pictures = [(PICTURE, "9"), (png(size=(3000, 3000)), "0")]
    for data, left in pictures:
        answer = post(limited, data)
        assert accepted(answer)
        assert answer.headers["X-RateLimit-Limit"] == "10"
        assert answer.headers["X-RateLimit-Remaining"] == left
        assert int(answer.headers["X-RateLimit-Reset"]) > 1.7e9
    refused = post(limited)
    assert error_of(refused) == (429, "rate_limit_exceeded")
    assert refused.get_json()["errors"][0]["title"] == "Rate limit exceeded"
    assert 1 <= int(refused.headers["Retry-After"]) <= 6


@pytest.mark.parametrize("path", [REMOVE, "/v1.0/improve"])
def test_no_address_is_fetched_over_the_quota(
    api: Api, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    open_api = api.with_settings(auth="on", removebg_keep_improvements=True)
    caller = open_api.tenant(path, rate_per_minute=1)
    fetched: list[str] = []

    def fetch(_: object, url: str, _into: object, **_limits: object) -> None:
        fetched.append(url)
        raise UrlUnreachableError("It was asked for.")

    monkeypatch.setattr(HttpClient, "fetch", fetch)
    answers = [caller.post(path, data={"image_url": "http://example.com/a"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [400, 429, 429]
    assert len(fetched) == 1


@pytest.mark.parametrize(("origins", "allowed"), [("", None), ("*", ORIGIN), (ORIGIN, ORIGIN)])
def test_only_pages_of_allowed_origins_may_call(
    api: Api, origins: str, allowed: str | None
) -> None:
    calls = api.with_settings(cors_origins=origins)
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    for path in (REMOVE, "/v1.0/nothing"):
        asked = calls.options(path, headers={"Origin": ORIGIN, **asks})
        assert asked.headers.get("Access-Control-Allow-Origin") == allowed
        if allowed:
            assert asked.headers["Access-Control-Allow-Headers"] == "x-api-key"
            assert "POST" in asked.headers["Access-Control-Allow-Methods"]
    refused = calls.get(REMOVE, headers={"Origin": ORIGIN})
    assert "POST" in refused.headers["Allow"]
    assert ("X-Width" in refused.headers.get("Access-Control-Expose-Headers", "")) == bool(allowed)
