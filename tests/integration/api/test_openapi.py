"""The OpenAPI document and its page, as the API serves them."""

import re
from urllib.parse import urljoin

import pytest

from api.openapi import EnvelopeApi
from tests.support.api import Api


def test_the_api_describes_itself_and_its_page_needs_nothing_from_elsewhere(api: Api) -> None:
    spec = api.get("/openapi.json").get_json()
    content = spec["paths"]["/api/v1/remove-bg"]["post"]["requestBody"]["content"]
    assert set(content) == {"multipart/form-data", "application/json"}
    loaded = re.findall(r'(?:src|href)="([^"]+)"', api.get("/docs/").text)
    assert any(address.endswith(".js") for address in loaded)
    assert not [address for address in loaded if "//" in address]
    for address in loaded:
        with api.get(urljoin("/docs/", address)) as answer:
            assert answer.status_code == 200


def test_the_document_is_made_once_since_anybody_may_ask_for_it(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = api.get("/openapi.json")
    monkeypatch.setattr(EnvelopeApi, "document", None)
    assert api.get("/openapi.json").data == first.data
    assert first.get_json()["servers"] == [{"url": "/"}]
