"""Texts of callers at their bounds, as docs/security.md lists them, and beyond: never a 500."""

import base64
import json
import re
import secrets
from dataclasses import dataclass
from typing import Any, Final

import pytest
import urllib3

from api.parameters import RemovalJson
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


@dataclass(frozen=True)
class Caller:
    """Sends texts to the API; each answer is none of the service's own faults."""

    url: str

    def send(self, path: str, **more: Any) -> urllib3.BaseHTTPResponse:  # noqa: ANN401 - urllib3's
        url = f"{self.url}{path}"
        answer = urllib3.request("POST", url, retries=False, timeout=60, **more)
        assert answer.status < 500, answer.data
        return answer

    def submit(self, given: dict[str, Any], **headers: str) -> urllib3.BaseHTTPResponse:
        return self.send("/api/v1/remove-bg", json={"cache": False, **given}, headers=headers)

    def batch(self, **given: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - urllib3's
        answer = self.send("/api/v1/remove-bg/batch", **given)
        path = json.loads(answer.data)["data"]["batch_id"]
        kept = urllib3.request("GET", f"{self.url}/api/v1/batches/{path}")
        return list(json.loads(kept.data)["data"]["items"])

    def upload(self, name: str) -> str:
        metadata = f"filename {base64.b64encode(name.encode()).decode()}"
        tus = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
        facts = {"Upload-Length": str(len(PICTURE)), "Upload-Metadata": metadata}
        answer = self.send("/api/v1/uploads", body=PICTURE, headers=tus | facts)
        return str(answer.headers["Location"]).rpartition("/")[2]


@pytest.fixture
def caller(lone_api: RunningApi) -> Caller:
    return Caller(lone_api.url)


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


def _refused_for_its_length(answer: urllib3.BaseHTTPResponse, name: str) -> bool:
    error = json.loads(answer.data).get("error") or {"fields": {}}
    return bool(re.search("limit|[Ll]onger|between", error["fields"].get(name, "")))


@pytest.mark.parametrize("name", _PARAMETERS)
def test_a_parameter_is_refused_beyond_its_bound_alone(caller: Caller, name: str) -> None:
    bound, beyond = BOUNDS[name]
    at_bound = caller.submit(_parameter(name, bound))
    assert not _refused_for_its_length(at_bound, name), at_bound.data
    if name in {"metadata", "webhook_url"}:
        assert at_bound.status == 202, at_bound.data
    answer = caller.submit(_parameter(name, bound + 1))
    assert (answer.status, _refused_for_its_length(answer, name)) == (int(beyond), True)


def test_every_text_that_a_parameter_takes_is_listed() -> None:
    fixed = {"output_format", "output", "shadow", "priority", "webhook_events", "image_b64"}
    numbers = {"Integer", "Boolean", "Float"}
    texts = {
        name for name, each in RemovalJson().fields.items() if type(each).__name__ not in numbers
    }
    assert set(_PARAMETERS) == texts - fixed


@pytest.mark.parametrize("over", [0, 1])
def test_headers(caller: Caller, over: int) -> None:
    picture = {"image_b64": _B64}
    bound, beyond = BOUNDS["Idempotency-Key"]
    key = secrets.token_hex(128)[: bound + over].ljust(bound + over, "a")
    status = caller.submit(picture, **{"Idempotency-Key": key}).status
    assert status == (int(beyond) if over else 202)
    given = "r" * (BOUNDS["X-Request-Id"][0] + over)
    answer = caller.submit(picture, **{"X-Request-Id": given})
    assert (answer.headers["X-Request-Id"] == given) == (not over)
    bound, beyond = BOUNDS["Upload-Metadata"]
    name = base64.b64encode(b"x" * 3000).decode()
    metadata = f"filename {name},{'a' * bound}"[: bound + over]
    tus = {"Tus-Resumable": "1.0.0", "Upload-Length": "5", "Upload-Metadata": metadata}
    assert caller.send("/api/v1/uploads", headers=tus).status == (int(beyond) if over else 201)


@pytest.mark.parametrize("length", [255, 2048])
def test_names_are_cut(caller: Caller, length: int) -> None:
    bounds = {BOUNDS[f"name of {text}"] for text in ("a form's file", "a batch item", "an upload")}
    assert bounds == {(255, "cut")}
    name = "n" * length
    for given in (
        {"json": {"items": [{"image_url": f"http://127.0.0.1:1/{name}?q"}]}},
        {"json": {"items": [{"upload_id": caller.upload(name)}]}},
        {"fields": {"images": (name, PICTURE)}},
    ):
        (item,) = caller.batch(**given)
        assert item["name"] == name[:255]


@pytest.mark.parametrize("name", ["size", "bg_color", "roi", "image_url"])
def test_texts_of_remove_bg_are_never_the_services_fault(caller: Caller, name: str) -> None:
    beginning = "http://127.0.0.1:1/" if name == "image_url" else ""
    picture = {} if name == "image_url" else {"image_file_b64": "AAAA"}
    fields = {name: beginning + "a" * 60_000, **picture}
    assert caller.send("/v1.0/removebg", fields=fields).status == 400
