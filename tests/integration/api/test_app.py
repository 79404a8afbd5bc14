"""The addresses in answers: from the public URL, or from what trusted proxies say."""

import re
from urllib.parse import urlsplit

import pytest

from tests.support.api import Api
from tests.support.submissions import PATH, PICTURE, data_of, form

SETTINGS = {"auth": "on"}
PUBLIC = "https://pictures.example/rmbg"
#: What a caller, or a proxy in front, sends along.
FORWARDED = {
    "Host": "evil.example",
    "X-Forwarded-Host": "evil.example, pictures.example",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Prefix": "/rmbg",
}
THROUGH_TWO = {"X-Forwarded-Host": "evil.example, outer.example, inner.example"}


def _addresses(shop: Api, headers: dict[str, str]) -> list[str]:
    """Every address of this service in its answers."""
    task = shop.send(headers=headers)
    tus = {**headers, "Tus-Resumable": "1.0.0", "Upload-Length": "3"}
    upload = shop.post("/api/v1/uploads", headers=tus)
    batch = shop.post(f"{PATH}/batch", headers=headers, **form(images=("a.png", PICTURE)))
    seen = data_of(batch)
    return [
        *(each.headers["Location"] for each in (task, upload, batch)),
        data_of(task)["status_url"],
        *(each["status_url"] for each in (seen, seen["items"][0])),
        seen["archive_url"],
    ]


@pytest.mark.parametrize(
    ("settings", "headers", "base"),
    [
        ({"public_url": PUBLIC}, FORWARDED, PUBLIC),
        ({"public_url": PUBLIC, "trusted_proxies": 1}, {"Host": "evil.example"}, PUBLIC),
        ({"public_url": "http://[::1]:8080/"}, FORWARDED, "http://[::1]:8080"),
        ({"trusted_proxies": 1}, FORWARDED, PUBLIC),
        ({"trusted_proxies": 2}, THROUGH_TWO, "http://outer.example"),
        ({}, {**FORWARDED, "Host": "localhost:81"}, "http://localhost:81"),
    ],
    ids=["public", "public behind a proxy", "without a path", "proxy", "two proxies", "neither"],
)
def test_every_address_has_one_base(
    api: Api, settings: dict[str, object], headers: dict[str, str], base: str
) -> None:
    shop = api.with_settings(**settings).tenant("shop")
    for address in _addresses(shop, headers):
        assert address.startswith(f"{base}/api/v1/"), address
    # The documentation's own addresses are relative, or have the path of the base.
    assert shop.get("/docs", headers=headers).headers["Location"] == f"{base}/docs/"
    page = shop.get("/docs/", headers=headers).text
    assert "evil" not in page
    assert not re.search(r'(href|src)="/', page)
    document = shop.get("/openapi.json", headers=headers).get_json()
    assert document["servers"] == [{"url": urlsplit(base).path or "/"}]
