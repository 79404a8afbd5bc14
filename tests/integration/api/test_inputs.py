"""A picture in base64 or by its address; what cannot be had is refused by name."""

import base64
from contextlib import ExitStack
from typing import Any

import pytest

from tasks.net.url_guard import AllowList, UrlGuard
from tests.support.api import Api
from tests.support.removebg_requests import error_of, send
from tests.support.servers import Servers
from tests.support.services import services_on
from tests.support.submissions import PATH, PICTURE, data_of, form, refused_fields

SETTINGS = {"max_image_mb": 1, "url_allow": "127.0.0.1"}
MB = 2**20


def _text(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


@pytest.mark.parametrize(
    "text",
    [
        _text(PICTURE),
        f"data:image/jpeg;base64,{_text(PICTURE)}",
        f"data:;base64,{_text(PICTURE)}",
        f"data:image/svg+xml;a=b;base64,{_text(PICTURE)}",
        base64.encodebytes(PICTURE).decode(),
    ],
    ids=["bare", "typed", "untyped", "with parameters", "with line breaks"],
)
def test_base64_with_and_without_a_prefix(api: Api, text: str) -> None:
    job = api.accepted(api.post(PATH, json={"image_b64": text}))
    assert api.objects.get(job.original_key) == PICTURE


def test_base64_in_a_form_may_be_larger_than_flask_allows_by_itself(api: Api) -> None:
    # A picture may be followed by anything; 700 kB of it is more than a form's 500 kB.
    large = PICTURE + bytes(700_000)
    job = api.accepted(api.post(PATH, **form(image_b64=_text(large))))
    assert api.objects.get(job.original_key) == large


def test_the_largest_picture_fits_in_json_and_a_larger_one_does_not(api: Api) -> None:
    full = PICTURE + bytes(MB - len(PICTURE))
    api.accepted(api.post(PATH, json={"image_b64": _text(full)}))
    answer = api.post(PATH, json={"image_b64": _text(full + b"x")})
    assert refused_fields(answer) == (413, "image_too_large", {"image_b64"})


@pytest.mark.parametrize("path", ["/cup.png", "/moved"])
@pytest.mark.parametrize("way", ["json", "data"])
def test_a_picture_by_its_address(api: Api, site: str, path: str, way: str) -> None:
    job = api.accepted(api.post(PATH, **{way: {"image_url": site + path}}))
    assert api.objects.get(job.original_key) == PICTURE
    assert job.file_stem == "cup"


@pytest.mark.parametrize(
    ("path", "status", "kind", "words"),
    [
        ("/page.html", 422, "invalid_image", "text/html"),
        ("/empty.png", 400, "empty_image", "empty"),
        ("/broken.png", 422, "invalid_image", "ends before"),
        ("/large.png", 413, "image_too_large", "limit is 1 MB"),
        ("/nowhere", 422, "url_unreachable", "404"),
    ],
)
def test_what_an_address_leads_to_may_not_do(
    api: Api, site: str, path: str, *, status: int, kind: str, words: str
) -> None:
    answer = api.post(PATH, json={"image_url": site + path})
    assert refused_fields(answer)[:2] == (status, kind)
    assert words in answer.get_json()["message"]
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
        answer = send(shop, **by_address)
        assert error_of(answer) == (429, "rate_limit_exceeded")
        shop.accepted(shop.send())
        studio.accepted(studio.post(PATH, json=by_address))
    shop.accepted(shop.post(PATH, json=by_address))


def test_a_receiver_is_not_looked_up_while_many_of_its_owner_are(api: Api) -> None:
    """A name server that is slow holds no further thread; each attempt looks up, and checks."""
    guard = UrlGuard(AllowList(), lambda _host, _port: ["10.0.0.1"])
    shop = api.with_settings(auth="on").with_parts(url_guard=guard).tenant("shop")
    lookups = shop.services.submissions.lookups
    with ExitStack() as slow:
        while lookups.take(shop.owner):
            slow.callback(lookups.give_back, shop.owner)
        assert shop.job(shop.submit(webhook_url="http://a.example/")).webhook_url
        answer = shop.send(webhook_url="http://10.0.0.1/")
        assert refused_fields(answer) == (422, "invalid_parameter", {"webhook_url"})
    answer = shop.send(webhook_url="http://a.example/")
    assert refused_fields(answer) == (422, "invalid_parameter", {"webhook_url"})


@pytest.fixture(scope="module")
def closed(servers: Servers) -> Api:
    """An API that may fetch from no address inside."""
    return Api.on(services_on(servers.settings(servers.redis_url())))


@pytest.mark.parametrize("name", ["image_url", "background_url"])
@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1/", "http://[::1]/", "http://169.254.169.254/latest/meta-data"]
)
def test_an_address_inside_is_refused_and_named(closed: Api, name: str, address: str) -> None:
    image = {"image": ("a.png", PICTURE)} if name == "background_url" else {}
    answer = closed.post(PATH, **form(**{name: address}, **image))
    assert refused_fields(answer) == (422, "url_not_allowed", {name})


@pytest.mark.parametrize("way", ["file", "address"])
def test_a_background_lies_beside_the_original(api: Api, site: str, way: str) -> None:
    behind: dict[str, Any] = {
        "file": {"background_image": ("b.png", PICTURE)},
        "address": {"background_url": f"{site}/cup.png"},
    }[way]
    sent = form(image=("a.png", PICTURE), output_format="jpg", **behind)
    job = api.accepted(api.post(PATH, **sent))
    assert api.objects.get(str(job.background_key)) == PICTURE
    assert job.options["background_sha256"] == job.sha256
