"""A picture in base64 or by its address; what cannot be had is refused by name."""

import base64
from contextlib import ExitStack
from typing import Any

import pytest

from tasks.net.http_client import HttpClient
from tasks.net.url_guard import AllowList, UrlGuard
from tests.support.api import Api
from tests.support.removebg_requests import error_of, send
from tests.support.services import services_on
from tests.support.submissions import PATH, PICTURE, data_of, form, refusal, refused_fields

SETTINGS = {"max_image_mb": 1, "url_allow": "127.0.0.1"}


@pytest.mark.parametrize("way", ["json", "form"])
def test_the_largest_picture_fits_in_base64_and_a_larger_one_does_not(api: Api, way: str) -> None:
    def send(picture: bytes) -> Any:  # noqa: ANN401 - werkzeug's
        given = {"image_b64": base64.b64encode(picture).decode()}
        return api.post(PATH, **({"json": given} if way == "json" else form(**given)))

    # A picture may be followed by anything, and a form's text may be larger than Flask's 500 kB.
    full = PICTURE + bytes(2**20 - len(PICTURE))
    assert api.objects.get(api.accepted(send(full)).original_key) == full
    assert refused_fields(send(full + b"x")) == (413, "image_too_large", {"image_b64"})


@pytest.mark.parametrize(("way", "path"), [("json", "/cup.png"), ("data", "/moved")])
def test_a_picture_by_its_address(api: Api, site: str, way: str, path: str) -> None:
    job = api.accepted(api.post(PATH, **{way: {"image_url": site + path}}))
    assert api.objects.get(job.original_key) == PICTURE
    assert job.file_stem == "cup"


def test_what_an_address_leads_to_may_not_do(api: Api, site: str) -> None:
    for path, status, kind, words in (
        ("/page.html", 422, "invalid_image", "text/html"),
        ("/empty.png", 400, "empty_image", "empty"),
        ("/broken.png", 422, "invalid_image", "ends before"),
        ("/large.png", 413, "image_too_large", "limit is 1 MB"),
        ("/nowhere", 422, "url_unreachable", "404"),
    ):
        answer = api.post(PATH, json={"image_url": site + path})
        assert refusal(answer, words) == (status, kind)
    assert api.queued() == []


def test_an_owner_with_its_share_of_slow_sites_is_refused_and_another_is_not(
    api: Api, site: str
) -> None:
    strict = api.with_settings(auth="on")
    shop, studio = strict.tenant("shop"), strict.tenant("studio")
    by_address, fetches = {"image_url": f"{site}/cup.png"}, shop.services.inputs.fetches
    with ExitStack() as slow:
        for _ in range(fetches.share):
            assert slow.enter_context(fetches.hold(shop.owner))
        answer = shop.post(PATH, json=by_address)
        assert refused_fields(answer) == (429, "too_many_fetches", {"image_url"})
        assert answer.headers["Retry-After"]
        batch = data_of(shop.post(f"{PATH}/batch", json={"items": [by_address]}))
        assert batch["items"][0]["error"]["retryable"]
        assert error_of(send(shop, **by_address)) == (429, "rate_limit_exceeded")
        shop.accepted(shop.send())
        studio.accepted(studio.post(PATH, json=by_address))
    shop.accepted(shop.post(PATH, json=by_address))


@pytest.mark.parametrize("leads_to", ["10.0.0.1", ""], ids=["inside", "nowhere"])
def test_no_answer_tells_a_name_inside_from_an_unknown_one(api: Api, leads_to: str) -> None:
    guard = UrlGuard(AllowList(), lambda _host, _port: list(filter(None, [leads_to])))
    parts = {"url_guard": guard, "http_client": HttpClient(guard)}
    closed = api.with_settings(auth="on").with_parts(**parts).tenant("shop")
    answer = closed.post(PATH, json={"image_url": "http://db.example/"})
    assert refused_fields(answer) == (422, "url_unreachable", {"image_url"})
    assert "no public address" in answer.get_json()["message"]
    # A receiver is looked up at each attempt alone.
    assert closed.job(closed.submit(webhook_url="http://db.example/")).webhook_url
    answer = closed.send(webhook_url="http://db/")
    assert refused_fields(answer) == (422, "invalid_parameter", {"webhook_url"})


@pytest.mark.parametrize("name", ["image_url", "background_url"])
def test_an_address_inside_is_refused_and_named(
    server_settings: dict[str, object], name: str
) -> None:
    closed = Api.on(services_on(server_settings))
    image = {"image": ("a.png", PICTURE)} if name == "background_url" else {}
    answer = closed.post(PATH, **form(**{name: "http://169.254.169.254/latest"}, **image))
    assert refused_fields(answer) == (422, "url_not_allowed", {name})


@pytest.mark.parametrize("way", ["file", "address"])
def test_a_background_lies_beside_the_original(api: Api, site: str, way: str) -> None:
    behind: dict[str, Any] = {
        "file": {"background_image": ("b.png", PICTURE)},
        "address": {"background_url": f"{site}/cup.png"},
    }[way]
    job = api.accepted(api.send(output_format="jpg", **behind))
    assert api.objects.get(str(job.background_key)) == PICTURE
    assert job.options["background_sha256"] == job.sha256
