"""The OpenAPI document and its page, as the API serves them."""

import re
from urllib.parse import urljoin

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
