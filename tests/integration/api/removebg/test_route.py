"""remove.bg's API before a picture is worked on: its errors, its headers, what it takes."""

import pytest

from tasks.errors import UrlUnreachableError
from tasks.net.http_client import HttpClient
from tests.support.api import Api
from tests.support.removebg_requests import PICTURE, REMOVE, accepted, error_of, picture, post, send
from tests.support.services import services_on
from tests.support.submissions import bomb, png

SETTINGS = {"max_image_mb": 1}
MB = 2**20


def test_what_cannot_be_used_as_a_picture(api: Api) -> None:
    for data, code in (
        (b"just some words, whatever the name says", "invalid_file_type"),
        (b"%PDF-1.7 and so on", "invalid_file_type"),
        (picture()[:300], "failed_to_read_image"),
        (picture(size=(60, 1)), "invalid_dimensions"),
        (bomb(), "resolution_too_high"),
        (b"", "failed_to_read_image"),
        (PICTURE + bytes(MB), "file_too_large"),
        (PICTURE + bytes(4 * MB), "file_too_large"),  # larger than a request
    ):
        assert error_of(post(api, data)) == (400, code)
        assert error_of(post(api, bg_image_file=("b.png", data))) == (400, code)


def test_a_file_is_judged_by_its_bytes_and_an_empty_field_is_absent(api: Api) -> None:
    # Trap 7: a JPEG under the name and type of something else.
    disguised = ("photo.txt.png", picture("JPEG"), "text/plain")
    # What a browser sends of a file field that was left empty.
    blank = ("", b"", "application/octet-stream")
    assert accepted(api, post(api, image_file=disguised, bg_image_file=blank, bg_color="red"))


def test_pictures_by_address(api: Api, server_settings: dict[str, object], site: str) -> None:
    inside = Api.on(services_on(server_settings, max_image_mb=1, url_allow="127.0.0.1"))
    assert accepted(inside, inside.post(REMOVE, json={"image_url": f"{site}/cup.png"}))
    job = accepted(inside, post(inside, bg_image_url=f"{site}/cup.png"))
    assert api.objects.get(str(job.background_key)) == png()
    for path, code in {
        "/nothing": "failed_{}_download",
        "/empty.png": "failed_{}_download",
        "/page.html": "invalid_file_type",
        "/large.png": "file_too_large",
    }.items():
        answers = send(inside, image_url=site + path), post(inside, bg_image_url=site + path)
        for name, answer in zip(("image", "bg"), answers, strict=True):
            assert error_of(answer) == (400, code.format(name))
    # Elsewhere, inner addresses are no addresses.
    assert error_of(send(api, image_url=f"{site}/cup.png")) == (400, "invalid_image_url")
    assert error_of(post(api, bg_image_url=f"{site}/cup.png")) == (400, "invalid_bg_image_url")


def test_a_background_file_goes_along_and_may_be_as_large_as_the_picture(api: Api) -> None:
    data, behind = (each + bytes(MB - len(each)) for each in (PICTURE, picture("JPEG")))
    job = accepted(api, post(api, data, bg_image_file=("bg.jpg", behind), format="jpg"))
    assert api.objects.get(str(job.background_key)) == behind
    assert job.options["background_sha256"]
    assert job.options["matte_color"] is None


def test_a_bad_key_is_403_and_with_keys_off_any_or_none_will_do(api: Api) -> None:
    guarded = api.with_settings(auth="on")
    assert guarded.tenant("shop").get("/v1.0/account").status_code == 200
    for title, headers in (
        ("Missing API Key", {"X-Api-Key": ""}),
        ("API Key invalid", {"X-Api-Key": "%API_KEY%"}),
        ("API Key invalid", {"Authorization": "Bearer wrong"}),
    ):
        for path, method in ((REMOVE, "POST"), ("/v1.0/account", "GET"), ("/v1.0/improve", "POST")):
            answer = guarded.open(path, method=method, headers=headers)
            assert answer.status_code == 403
            assert answer.get_json() == {"errors": [{"title": title, "code": "auth_failed"}]}
        attributes = api.get("/v1.0/account", headers=headers).get_json()["data"]["attributes"]
        # The account has no key more and none less.
        assert {name: set(each) for name, each in attributes.items()} == {
            "credits": {"total", "subscription", "payg", "enterprise"},
            "api": {"free_calls", "sizes"},
        }
        assert attributes["credits"]["total"] > 0
        assert attributes["api"]["sizes"] == "all"


def test_improve_keeps_a_picture_only_where_that_is_wanted(api: Api) -> None:
    before = set(api.objects.list("improvements/"))
    for keep in (False, True):
        keeping = api.with_settings(removebg_keep_improvements=keep)
        answer = post(keeping, path="/v1.0/improve", tag="shop")
        assert answer.status_code == 200
        assert set(answer.get_json()) == {"id"}
        assert error_of(keeping.post("/v1.0/improve")) == (400, "missing_source")
        added = set(api.objects.list("improvements/")) - before
        assert added == ({f"improvements/{answer.get_json()['id']}"} if keep else set())


def test_over_the_rate_it_says_when_to_come_again(api: Api) -> None:
    limited = api.with_settings(removebg_megapixels_per_minute=10)
    # A picture costs its megapixels, and at least 1.
    for data, left in [(PICTURE, "9"), (png(size=(3000, 3000)), "0")]:
        answer = post(limited, data)
        assert accepted(api, answer)
        assert answer.headers["X-RateLimit-Limit"] == "10"
        assert answer.headers["X-RateLimit-Remaining"] == left
        assert int(answer.headers["X-RateLimit-Reset"]) > 1.7e9
    refused = post(limited)
    assert error_of(refused) == (429, "rate_limit_exceeded")
    assert refused.get_json()["errors"][0]["title"] == "Rate limit exceeded"
    assert 1 <= int(refused.headers["Retry-After"]) <= 6


def test_no_address_is_fetched_over_the_quota(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    def fetch(_: object, url: str, _into: object, **_limits: object) -> None:
        fetched.append(url)
        raise UrlUnreachableError("It was asked for.")

    monkeypatch.setattr(HttpClient, "fetch", fetch)
    guarded = api.with_settings(auth="on", removebg_keep_improvements=True)
    for path in (REMOVE, "/v1.0/improve"):
        caller = guarded.tenant(path, rate_per_minute=1)
        answers = [send(caller, path, image_url="http://example.com/a") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [400, 429, 429]
    assert len(fetched) == 2
