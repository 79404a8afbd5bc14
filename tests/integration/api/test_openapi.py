"""The OpenAPI document and its page, as the API serves them."""

import re
from urllib.parse import urljoin

from tests.support.api import Api


def test_the_api_describes_itself(api: Api) -> None:
    spec = api.get("/openapi.json").get_json()
    assert spec["openapi"] == "3.1.0"
    schemas = spec["components"]["schemas"]
    assert set(schemas["RemovalForm"]["properties"]) == {
        "image",
        "background_image",
        *schemas["RemovalJson"]["properties"],
    }
    content = spec["paths"]["/api/v1/remove-bg"]["post"]["requestBody"]["content"]
    assert set(content) == {"multipart/form-data", "application/json"}
    assert {"/api/v1/remove-bg", "/api/v1/tasks/{task_id}", "/healthz/ready"} <= set(spec["paths"])


def test_the_documentation_needs_nothing_from_elsewhere(api: Api) -> None:
    page = api.get("/docs/").get_data(as_text=True)
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert any(address.endswith(".js") for address in loaded)
    assert not [address for address in loaded if "//" in address]
    for address in loaded:
        with api.get(urljoin("/docs/", address)) as answer:
            assert answer.status_code == 200
