"""Texts of callers at their bounds, as docs/security.md lists them, and beyond: never a 500."""

import base64
import json
import re
import secrets
from typing import Any, Final

import pytest
import urllib3
from urllib3 import BaseHTTPResponse

from api.parameters import RemovalJson
from rmbg_client import Bytes, Client, Upload
from tests.support.paths import ROOT
from tests.support.service import RunningApi
from tests.support.submissions import PICTURE

_ROW: Final = re.compile(r"^\| `?([^|`]+)`? \| ([\d,]+) \| [^|]+ \| (\w+) \|$", re.MULTILINE)
_PAGE: Final = (ROOT / "docs" / "security.md").read_text()
#: By the name of a text: its bound, and what happens beyond it.
BOUNDS: Final = {
    name: (int(bound.replace(",", "")), beyond)
    for name, bound, beyond in _ROW.findall(_PAGE.partition("## Bounds of texts")[2])
}
_B64: Final = base64.b64encode(PICTURE).decode()
_PARAMETERS: Final = sorted(BOUNDS.keys() & RemovalJson().fields.keys())
_BEGINNINGS: Final = {"image_url": "http://", "background_url": "http://", "webhook_url": "http://"}


def _send(api: RunningApi, path: str, **more: Any) -> BaseHTTPResponse:  # noqa: ANN401 - urllib3's
    """Send a request; its answer is none of the service's own faults."""
    answer = urllib3.request("POST", f"{api.url}{path}", retries=False, timeout=60, **more)
    assert answer.status < 500, answer.data
    return answer


def _submit(api: RunningApi, given: dict[str, Any], **headers: str) -> BaseHTTPResponse:
    return _send(api, "/api/v1/remove-bg", json={"cache": False, **given}, headers=headers)


def _parameter(name: str, length: int) -> dict[str, Any]:
    """Return a submission with a parameter of this length, and a picture unless it is that."""
    if name == "metadata":
        text: Any = {"a": "x" * (length - len('{"a":""}'))}
    else:
        beginning = _BEGINNINGS.get(name, "")
        host = "127.0.0.1:1/" if beginning else ""
        text = beginning + host + "a" * (length - len(beginning) - len(host))
    own_picture = name in {"image_url", "upload_id"}
    return {name: text, **({} if own_picture else {"image_b64": _B64})}


def _refused_for_its_length(answer: BaseHTTPResponse, name: str) -> bool:
    error = json.loads(answer.data).get("error") or {"fields": {}}
    return bool(re.search("limit|[Ll]onger|between", error["fields"].get(name, "")))


@pytest.mark.parametrize("name", _PARAMETERS)
def test_a_parameter_is_refused_beyond_its_bound_alone(lone_api: RunningApi, name: str) -> None:
    bound, beyond = BOUNDS[name]
    at_bound = _submit(lone_api, _parameter(name, bound))
    assert not _refused_for_its_length(at_bound, name), at_bound.data
    if name in {"metadata", "webhook_url"}:
        assert at_bound.status == 202, at_bound.data
    answer = _submit(lone_api, _parameter(name, bound + 1))
    assert (answer.status, _refused_for_its_length(answer, name)) == (int(beyond), True)


def test_every_text_that_a_parameter_takes_is_listed() -> None:
    fixed = {"output_format", "output", "shadow", "priority", "webhook_events", "image_b64"}
    numbers = {"Integer", "Boolean", "Float"}
    texts = {
        name for name, each in RemovalJson().fields.items() if type(each).__name__ not in numbers
    }
    assert set(_PARAMETERS) == texts - fixed


@pytest.mark.parametrize("over", [0, 1])
def test_headers(lone_api: RunningApi, over: int) -> None:
    picture = {"image_b64": _B64}
    bound, beyond = BOUNDS["Idempotency-Key"]
    key = secrets.token_hex(128)[: bound + over].ljust(bound + over, "a")
    status = _submit(lone_api, picture, **{"Idempotency-Key": key}).status
    assert status == (int(beyond) if over else 202)
    given = "r" * (BOUNDS["X-Request-Id"][0] + over)
    answer = _submit(lone_api, picture, **{"X-Request-Id": given})
    assert (answer.headers["X-Request-Id"] == given) == (not over)
    bound, beyond = BOUNDS["Upload-Metadata"]
    name = base64.b64encode(b"x" * 3000).decode()
    metadata = f"filename {name},{'a' * bound}"[: bound + over]
    tus = {"Tus-Resumable": "1.0.0", "Upload-Length": "5", "Upload-Metadata": metadata}
    assert _send(lone_api, "/api/v1/uploads", headers=tus).status == (int(beyond) if over else 201)


@pytest.mark.parametrize("length", [255, 2048])
def test_names_are_cut(lone_api: RunningApi, length: int) -> None:
    bounds = {BOUNDS[f"name of {text}"] for text in ("a form's file", "a batch item", "an upload")}
    assert bounds == {(255, "cut")}
    name = "n" * length
    picture = Bytes(PICTURE, name)
    with Client(lone_api.url) as client:
        for given in (f"http://127.0.0.1:1/{name}?q", Upload(client.upload(picture)), picture):
            (item,) = client.batch(client.submit_batch([given]).batch_id).items
            assert item.name == name[:255]


@pytest.mark.parametrize("name", ["size", "bg_color", "roi", "image_url"])
def test_texts_of_remove_bg_are_never_the_services_fault(lone_api: RunningApi, name: str) -> None:
    beginning = "http://127.0.0.1:1/" if name == "image_url" else ""
    picture = {} if name == "image_url" else {"image_file_b64": "AAAA"}
    fields = {name: beginning + "a" * 60_000, **picture}
    assert _send(lone_api, "/v1.0/removebg", fields=fields).status == 400
