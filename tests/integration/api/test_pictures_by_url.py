"""Pictures and backgrounds that are fetched from an address; geometry reaches the record."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
from flask.testing import FlaskClient
from urllib3.filepost import encode_multipart_formdata
from werkzeug.test import TestResponse

from api.app import create_app
from api.services import Services
from api.settings import ApiSettings
from inference.options import Options, Output, Shadow
from tasks.jobs.job import Job, Status
from tasks.redis_client import connect
from tests.support.paths import DATA

PATH = "/api/v1/remove-bg"


class _Files(BaseHTTPRequestHandler):
    """What a shop's web server might answer."""

    files: ClassVar[dict[str, tuple[int, str, bytes]]] = {}

    def do_GET(self) -> None:
        status, kind, body = self.files.get(self.path, (404, "text/plain", b"no"))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if status == 302:
            self.send_header("Location", kind)
        self.end_headers()
        with suppress(OSError):  # where it is too much, the client hangs up
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(coffee_bytes: bytes) -> Iterator[str]:
    _Files.files = {
        "/cup.jpg": (200, "image/jpeg", coffee_bytes),
        "/moved": (302, "/cup.jpg", b""),
        "/page": (200, "text/html; charset=utf-8", b"<!doctype html><p>not found</p>" * 9),
        "/empty": (200, "image/png", b""),
        "/broken.jpg": (200, "image/jpeg", coffee_bytes[:3000]),
        "/large": (200, "image/jpeg", coffee_bytes + bytes(30 * 2**20)),
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def coffee_bytes() -> bytes:
    return (DATA / "coffee.jpg").read_bytes()


def _services(server_settings: dict[str, object], **more: object) -> Services:
    own = str(server_settings["redis_url"])
    return Services.from_settings(ApiSettings.load(**{**server_settings, "redis_url": own, **more}))


@pytest.fixture
def services(server_settings: dict[str, object], objects: object) -> Services:  # noqa: ARG001 - makes the bucket
    made = _services(server_settings, url_allow="127.0.0.1")
    connect(made.settings.redis_url.get_secret_value()).flushdb()
    return made


@pytest.fixture
def client(services: Services) -> Iterator[FlaskClient]:
    with create_app(services).test_client() as client:
        yield client


def _accepted(answer: TestResponse, services: Services) -> Job:
    assert answer.status_code == 202, answer.get_json()
    job = services.runtime.job_store.get(answer.get_json()["data"]["task_id"])
    assert job is not None
    return job


@pytest.mark.parametrize("path", ["/cup.jpg", "/moved"])
def test_a_picture_by_its_address(
    client: FlaskClient, services: Services, site: str, coffee_bytes: bytes, path: str
) -> None:
    job = _accepted(client.post(PATH, json={"image_url": site + path}), services)
    assert services.runtime.object_store.get(job.original_key) == coffee_bytes
    assert job.file_stem == "cup"


def test_an_address_in_a_form(client: FlaskClient, services: Services, site: str) -> None:
    _accepted(client.post(PATH, data={"image_url": f"{site}/cup.jpg"}), services)


@pytest.mark.parametrize(
    ("path", "outcome"),
    [
        ("/page", (422, "invalid_image", "text/html")),
        ("/empty", (400, "empty_image", "empty")),
        ("/broken.jpg", (422, "invalid_image", "ends before")),
        ("/large", (413, "image_too_large", "limit is 10 MB")),
        ("/nowhere", (422, "url_unreachable", "404")),
    ],
)
def test_what_comes_from_an_address_and_will_not_do(
    client: FlaskClient,
    services: Services,
    site: str,
    path: str,
    outcome: tuple[int, str, str],
) -> None:
    status, kind, words = outcome
    body = client.post(PATH, json={"image_url": site + path}).get_json()
    assert (body["code"] // 100, body["error"]["type"]) == (status, kind)
    assert words in body["message"]
    assert services.runtime.job_store.ids(Status.QUEUED) == []


@pytest.mark.parametrize("name", ["image_url", "background_url"])
@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1/", "http://[::1]/", "http://169.254.169.254/latest/meta-data"]
)
def test_an_address_inside_is_refused_and_named(
    server_settings: dict[str, object], coffee_bytes: bytes, name: str, address: str
) -> None:
    form: dict[str, Any] = {name: address}
    if name == "background_url":
        form["image"] = ("a.jpg", coffee_bytes)
    body, kind = encode_multipart_formdata(form)
    with create_app(_services(server_settings)).test_client() as client:
        answer = client.post(PATH, data=body, content_type=kind).get_json()
    assert answer["error"]["type"] == "url_not_allowed"
    assert set(answer["error"]["fields"]) == {name}


@pytest.mark.parametrize("way", ["file", "address"])
def test_a_background_lies_beside_the_original(
    client: FlaskClient, services: Services, site: str, coffee_bytes: bytes, way: str
) -> None:
    form: dict[str, Any] = {"image": ("a.jpg", coffee_bytes), "output_format": "jpg"}
    if way == "file":
        form["background_image"] = ("b.jpg", coffee_bytes)
    else:
        form["background_url"] = f"{site}/cup.jpg"
    body, kind = encode_multipart_formdata(form)
    job = _accepted(client.post(PATH, data=body, content_type=kind), services)
    assert services.runtime.object_store.get(str(job.background_key)) == coffee_bytes
    assert Options.from_dict(job.options).background_sha256 == job.sha256


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ({"background_image": b"no picture at all"}, {"background_image"}),
        ({"background_image": None, "matte_color": "red"}, {"matte_color"}),
        (
            {"background_image": None, "background_url": "http://example.com/"},
            {"background_image", "background_url"},
        ),
        ({"background_image": None, "output": "mask"}, {"background_image"}),
    ],
)
def test_backgrounds_that_will_not_do(
    client: FlaskClient, coffee_bytes: bytes, more: dict[str, Any], names: set[str]
) -> None:
    behind = more.get("background_image") or coffee_bytes
    form = {**more, "image": ("a.jpg", coffee_bytes), "background_image": ("b.jpg", behind)}
    body, kind = encode_multipart_formdata(form)
    answer = client.post(PATH, data=body, content_type=kind)
    assert answer.status_code == 422
    assert set(answer.get_json()["error"]["fields"]) == names


def test_every_option_reaches_the_record(
    client: FlaskClient, services: Services, site: str
) -> None:
    asked = {
        "image_url": f"{site}/cup.jpg",
        "crop": True,
        "crop_margin": "10% 5px",
        "max_side": 640,
        "roi": "10% 0px 90% 100%",
        "scale": "80%",
        "position": "center",
        "shadow": "drop",
        "shadow_opacity": 70,
    }
    options = Options.from_dict(_accepted(client.post(PATH, json=asked), services).options)
    assert (options.crop, str(options.crop_margin)) == (True, "10% 5px 10% 5px")
    assert (options.max_side, options.scale, options.shadow_opacity) == (640, 80.0, 70)
    assert str(options.roi) == "10% 0% 90% 100%"
    assert options.position is not None
    assert options.shadow is Shadow.DROP
    mask = {"image_url": f"{site}/cup.jpg", "output": "mask"}
    job = _accepted(client.post(PATH, json=mask), services)
    assert Options.from_dict(job.options).output is Output.MASK


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("output", "both"),
        ("crop_margin", "1 2 3"),
        ("max_side", 15),
        ("roi", "everywhere"),
        ("scale", "5%"),
        ("position", "left"),
        ("shadow", "long"),
        ("shadow_opacity", 101),
        ("output_format", "zip"),
    ],
)
def test_an_option_that_will_not_do_is_named_before_anything_is_fetched(
    client: FlaskClient, name: str, value: object
) -> None:
    asked = {"image_url": "http://127.0.0.1:1/never-called", name: value}
    answer = client.post(PATH, json=asked).get_json()
    assert answer["error"]["type"] == "invalid_parameter"
    assert set(answer["error"]["fields"]) == {name}
