"""The addresses in answers: from the public URL, or from what trusted proxies say."""

import re
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.api import Api
from tests.support.submissions import PATH, PICTURE, data_of, form

SETTINGS = {"auth": "on"}
PUBLIC = "https://pictures.example/rmbg"
#: What a caller, or a proxy in front, sends along.
FORWARDED = {
    "Host": "evil.example",
    "X-Forwarded-Host": "pictures.example",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Prefix": "/rmbg",
}
TUS = {"Tus-Resumable": "1.0.0", "Upload-Length": "3"}


def _addresses(shop: Api, headers: dict[str, str]) -> list[str]:
    """Every address of this service in its answers."""
    task = shop.send(headers=headers)
    upload = shop.post("/api/v1/uploads", headers={**headers, **TUS})
    images = form(("images", ("a.png", PICTURE)))
    sent: dict[str, Any] = {"headers": {**headers, "Prefer": "wait=0"}, **images}
    batch = shop.post(f"{PATH}/batch", **sent)
    seen = data_of(batch)
    return [
        task.headers["Location"],
        data_of(task)["status_url"],
        upload.headers["Location"],
        batch.headers["Location"],
        seen["status_url"],
        seen["archive_url"],
        seen["items"][0]["status_url"],
    ]


@pytest.mark.parametrize(
    ("settings", "headers", "base"),
    [
        ({"public_url": PUBLIC}, FORWARDED, PUBLIC),
        ({"public_url": PUBLIC, "trusted_proxies": 1}, {"Host": "evil.example"}, PUBLIC),
        ({"public_url": "http://[::1]:8080"}, FORWARDED, "http://[::1]:8080"),
        ({"trusted_proxies": 1}, FORWARDED, PUBLIC),
        ({}, {**FORWARDED, "Host": "localhost:81"}, "http://localhost:81"),
    ],
    ids=["public", "public behind a proxy", "without a path", "proxy", "neither"],
)
def test_every_address_has_one_base(
    api: Api, settings: dict[str, object], headers: dict[str, str], base: str
) -> None:
    caller = api.services.settings.load(**{**api.services.settings.model_dump(), **settings})
    shop = api.with_settings(**{name: getattr(caller, name) for name in settings}).tenant("shop")
    for address in _addresses(shop, headers):
        assert address.startswith(f"{base}/api/v1/"), address
    # The documentation's own addresses are relative, or have the path of the base.
    path = urlsplit(base).path
    assert shop.get("/docs", headers=headers).headers["Location"] == f"{base}/docs/"
    page = shop.get("/docs/", headers=headers).text
    assert "evil" not in page
    assert not re.search(r'(href|src)="/', page)
    document = shop.get("/openapi.json", headers=headers).get_json()
    assert document["servers"] == [{"url": path or "/"}]


@pytest.mark.parametrize("proxies", [0, 1, 2])
def test_as_many_proxies_are_believed_as_there_are(api: Api, proxies: int) -> None:
    shop = api.with_settings(trusted_proxies=proxies).tenant("shop")
    headers = {"X-Forwarded-Host": "evil.example, outer.example, inner.example"}
    address = data_of(shop.send(headers=headers))["status_url"]
    names = {0: "localhost", 1: "inner.example", 2: "outer.example"}
    assert urlsplit(address).hostname == names[proxies]
