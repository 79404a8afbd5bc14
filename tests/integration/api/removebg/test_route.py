"""remove.bg's API before a picture is worked on: its errors, its headers, what it takes."""

import base64
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar

import pytest
from flask.testing import FlaskClient
from PIL import Image
from urllib3 import encode_multipart_formdata
from werkzeug.test import TestResponse

from api.app import create_app
from api.removebg.parameters import SIZES
from api.services import Services
from api.settings import ApiSettings
from api.submission import SubmissionService
from api.waiting import TaskWaiter
from tasks.jobs.job import Job, JobError, Priority, Status
from tasks.redis_client import connect

REMOVE = "/v1.0/removebg"
#: Name, bytes and declared type.
File = tuple[str, bytes, str]


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no worker here: what gets so far that it is waited for has been accepted."""
    monkeypatch.setattr("api.removebg.route.WAIT_SECONDS", 0.05)


@pytest.fixture
def services(server_settings: dict[str, object], objects: object) -> Services:  # noqa: ARG001 - makes the bucket
    own = str(server_settings["redis_url"]).removesuffix("/0") + "/12"
    connect(own).flushdb()
    settings = ApiSettings.load(
        **{
            **server_settings,
            "redis_url": own,
            "max_image_mb": 2,
        }
    )
    return Services.from_settings(settings)


@pytest.fixture
def client(services: Services) -> Iterator[FlaskClient]:
    with create_app(services).test_client() as client:
        yield client


def with_settings(services: Services, **settings: object) -> Services:
    return replace(services, settings=services.settings.model_copy(update=settings))


def picture(name: str = "PNG", size: tuple[int, int] = (60, 40)) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise(size, 90).convert("RGB").save(stream, name)
    return stream.getvalue()


PICTURE = picture()


def file(data: bytes = PICTURE, name: str = "a.png", kind: str = "image/png") -> File:
    return name, data, kind


def send(client: FlaskClient, path: str = REMOVE, **form: File | str) -> TestResponse:
    body, kind = encode_multipart_formdata(form)
    return client.post(path, data=body, content_type=kind)


def post(client: FlaskClient, data: bytes = PICTURE, **form: File | str) -> TestResponse:
    return send(client, **{"image_file": file(data), **form})


def error_of(answer: TestResponse) -> tuple[int, str]:
    (error,) = answer.get_json()["errors"]
    assert set(error) in ({"title", "code"}, {"title", "code", "detail"})
    assert all(isinstance(value, str) and value for value in error.values())
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    return answer.status_code, error["code"]


def accepted(answer: TestResponse) -> bool:
    """It got past all checks, and then nobody worked on it."""
    return error_of(answer) == (503, "not_finished")


def latest_options(services: Services) -> dict[str, Any]:
    (job,) = services.runtime.job_store.read_newest([Status.QUEUED], 1).jobs
    assert job.priority is Priority.HIGH
    return job.options


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"size": "huge"}, "invalid_size"),
        ({"format": "gif"}, "invalid_format"),
        ({"channels": "rgb"}, "invalid_channels"),
        ({"bg_color": "nocolour"}, "invalid_bg_color"),
        ({"bg_color": "12345"}, "invalid_bg_color"),
        ({"roi": "1 2 3"}, "invalid_roi"),
        ({"roi": "0 0 120% 100%"}, "roi_exceeds_bounds"),
        ({"roi": "50% 0 50% 100%"}, "roi_region_empty"),
        ({"crop": "true", "crop_margin": "60%"}, "invalid_crop_margin"),
        ({"crop": "true", "crop_margin": "501px"}, "invalid_crop_margin"),
        ({"crop": "maybe"}, "invalid_crop"),
        ({"scale": "5%"}, "invalid_scale"),
        ({"scale": "large"}, "invalid_scale"),
        ({"position": "left"}, "invalid_position"),
        ({"semitransparency": "some"}, "invalid_semitransparency"),
        ({"shadow_type": "long"}, "invalid_shadow_type"),
        ({"shadow_opacity": "101"}, "invalid_shadow_opacity"),
        ({"shadow_opacity": "x"}, "invalid_shadow_opacity"),
        ({"image_url": "http://example.com/a.jpg"}, "multiple_sources"),
        ({"bg_image_url": "nowhere"}, "invalid_bg_image_url"),
        ({"bg_color": "red", "bg_image_url": "http://127.0.0.1/"}, "multiple_bg_sources"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(client: FlaskClient, parameters: dict[str, str], code: str) -> None:
    assert error_of(post(client, **parameters)) == (400, code)


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({}, "missing_source"),
        ({"image_url": "example.com/a.jpg"}, "invalid_image_url"),
        ({"image_url": "ftp://example.com/a"}, "invalid_image_url"),
        ({"image_file_b64": "not base64!"}, "failed_to_read_image"),
        (
            {"image_file_b64": "AAAA", "image_url": "http://example.com/a.jpg"},
            "multiple_sources",
        ),
    ],
    ids=str,
)
def test_a_source_that_will_not_do(
    client: FlaskClient, parameters: dict[str, str], code: str
) -> None:
    assert error_of(send(client, **parameters)) == (400, code)
    assert error_of(client.post(REMOVE, json=parameters)) == (400, code)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"just some words, whatever the name says", "invalid_file_type"),
        (b"%PDF-1.7 and so on", "invalid_file_type"),
        (picture()[:300], "failed_to_read_image"),
        (picture(size=(60, 1)), "invalid_dimensions"),
        (b"\x89PNG\r\n\x1a\n" + bytes(3 * 2**20), "file_too_large"),
        (b"\x89PNG\r\n\x1a\n" + bytes(9 * 2**20), "file_too_large"),
    ],
    ids=["text", "pdf", "cut off", "one row", "over the limit", "over the limit of a request"],
)
def test_what_cannot_be_used_as_a_picture(client: FlaskClient, data: bytes, code: str) -> None:
    assert error_of(post(client, data)) == (400, code)
    assert error_of(post(client, bg_image_file=file(data))) == (400, code)


def test_an_empty_file_and_too_many_pixels(services: Services) -> None:
    few = services.settings.model_copy(update={"max_megapixels": 0.001})
    with create_app(replace(services, settings=few)).test_client() as client:
        assert error_of(post(client)) == (400, "resolution_too_high")
        assert error_of(post(client, b"")) == (400, "failed_to_read_image")


def test_a_file_is_judged_by_its_bytes(client: FlaskClient) -> None:
    # Trap 7: a JPEG under the name and type of something else.
    disguised = file(picture("JPEG"), "photo.txt.png", "text/plain")
    assert accepted(post(client, image_file=disguised))


def test_empty_means_absent(client: FlaskClient, services: Services) -> None:
    # Trap 1: the official command line sends every parameter that is not set as "".
    names = [
        "image_file_b64", "image_url", "size", "type", "type_level", "format", "roi", "crop",
        "crop_margin", "scale", "position", "channels", "add_shadow", "shadow_type",
        "shadow_opacity", "semitransparency", "bg_color", "bg_image_url", "bg_image_file",
    ]  # fmt: skip
    assert accepted(post(client, **dict.fromkeys(names, "")))
    options = latest_options(services)
    assert (options["output_format"], options["max_pixels"]) == ("auto", 250_000)
    assert not options["crop"]
    assert options["background_sha256"] is None


def test_a_browsers_empty_file_field_is_absent(client: FlaskClient) -> None:
    blank = file(b"", "", "application/octet-stream")
    assert accepted(post(client, bg_image_file=blank, bg_color="red"))


def test_the_python_clients_parameters(client: FlaskClient, services: Services) -> None:
    # Trap 2: urlencoded, with its own defaults.
    body = {
        "image_file_b64": base64.b64encode(picture()).decode(),
        "size": "regular",
        "type": "auto",
        "type_level": "none",
        "format": "auto",
        "roi": "0 0 100% 100%",
        "crop": "false",
        "scale": "original",
        "position": "original",
        "channels": "rgba",
        "shadow_type": "none",
        "semitransparency": "true",
    }
    answer = client.post(REMOVE, data=body, content_type="application/x-www-form-urlencoded")
    assert accepted(answer)
    assert latest_options(services)["roi"] is None


def test_json_with_its_own_types(client: FlaskClient, services: Services) -> None:
    body = {
        "image_file_b64": base64.b64encode(picture()).decode(),
        "crop": True,
        "shadow_opacity": 30,
        "semitransparency": False,
        "bg_color": None,
        "scale": "50%",
        "shadow_type": {"car": "3D"},
    }
    assert accepted(client.post(REMOVE, json=body))
    options = latest_options(services)
    assert (options["crop"], options["shadow_opacity"], options["scale"]) == (True, 30, 50.0)
    assert (options["semitransparency"], options["shadow"]) == (False, "drop")


@pytest.mark.parametrize("body", ["[]", "{", "null", '"text"'])
def test_json_that_is_no_object(client: FlaskClient, body: str) -> None:
    answer = client.post(REMOVE, data=body, content_type="application/json")
    assert error_of(answer) == (400, "bad_request")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("+", " "),
        lambda text: f"data:image/png;base64,{text}",
        lambda text: f"data:image/png;base64,{text}".replace("+", " "),
        lambda text: "\r\n".join(text[at : at + 76] for at in range(0, len(text), 76)),
    ],
    ids=["spaces", "prefix", "both", "lines"],
)
def test_base64_as_clients_spoil_it(client: FlaskClient, services: Services, spoil: Any) -> None:  # noqa: ANN401 - a lambda
    # Trap 9.
    data = picture()
    text = base64.b64encode(data).decode()
    assert "+" in text
    assert accepted(send(client, image_file_b64=spoil(text)))
    (job,) = services.runtime.job_store.read_newest([Status.QUEUED], 1).jobs
    assert services.runtime.object_store.get(job.original_key) == data


def test_a_large_text_is_no_reason_for_413(client: FlaskClient) -> None:
    # Trap 8: Flask's own limit for a form's text is 500,000 bytes.
    data = picture(size=(700, 500))
    text = base64.b64encode(data).decode()
    assert len(text) > 600_000
    assert accepted(send(client, image_file_b64=text))


def test_a_longer_text_than_a_picture_may_have(client: FlaskClient) -> None:
    text = "A" * (3 * 2**20)
    assert error_of(send(client, image_file_b64=text)) == (400, "file_too_large")


@pytest.mark.parametrize(("size", "pixels"), SIZES.items())
def test_sizes(client: FlaskClient, services: Services, size: str, pixels: int) -> None:
    assert accepted(post(client, size=size))
    assert latest_options(services)["max_pixels"] == pixels


def test_a_png_may_be_capped(services: Services) -> None:
    with create_app(with_settings(services, removebg_png_megapixels=10)).test_client() as client:
        assert accepted(post(client, size="full", format="png"))
        assert latest_options(services)["max_pixels"] == 10_000_000
        assert accepted(post(client, size="full", format="jpg"))
        assert latest_options(services)["max_pixels"] == 25_000_000


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"format": "jpg"}, {"matte_color": [255, 255, 255, 255]}),
        ({"format": "jpg", "bg_color": "0f08"}, {"matte_color": [119, 255, 119, 255]}),
        ({"bg_color": "fff"}, {"matte_color": [255, 255, 255, 255]}),
        ({"bg_color": "#81d4fa"}, {"matte_color": [129, 212, 250, 255]}),
        ({"bg_color": "81d4fa77"}, {"matte_color": [129, 212, 250, 119]}),
        ({"bg_color": "Teal"}, {"matte_color": [0, 128, 128, 255]}),
        ({"channels": "alpha"}, {"output": "mask", "output_format": "auto"}),
        ({"channels": "alpha", "format": "zip"}, {"output": "mask", "output_format": "png"}),
        ({"channels": "alpha", "bg_color": "red"}, {"output": "mask", "matte_color": None}),
        ({"add_shadow": "true"}, {"shadow": "drop", "shadow_opacity": 50}),
        ({"shadow_type": "none", "add_shadow": "true"}, {"shadow": "none"}),
        ({"shadow_type": "3D", "shadow_opacity": "80"}, {"shadow": "drop", "shadow_opacity": 80}),
        ({"shadow_type[car]": "car", "type": "car"}, {"shadow": "drop"}),
        ({"shadow_type[car]": "car", "type": "person"}, {"shadow": "none"}),
        ({"crop": "1", "crop_margin": "10% 20px"}, {"crop_margin": "10% 20px 10% 20px"}),
        ({"roi": "0 0 50% 20px"}, {"roi": "0% 0% 50% 20px"}),
        ({"scale": "80%", "position": "20%"}, {"scale": 80.0, "position": "20% 20%"}),
        ({"colour": "unknown parameters do no harm"}, {}),
    ],
    ids=str,
)
def test_parameters_reach_the_options(
    client: FlaskClient, services: Services, parameters: dict[str, str], expected: Mapping[str, Any]
) -> None:
    assert accepted(post(client, **parameters))
    options = latest_options(services)
    assert {name: options[name] for name in expected} == expected


class _Site(BaseHTTPRequestHandler):
    """What addresses may lead to."""

    bodies: ClassVar = {
        "/a.png": PICTURE,
        "/page": b"<!doctype html>" * 9,
        "/large.png": PICTURE + bytes(3 * 2**20),
        "/empty": b"",
    }

    def do_GET(self) -> None:
        body = self.bodies.get(self.path)
        self.send_response(404 if body is None else 200)
        self.end_headers()
        with suppress(OSError):  # where it is too much, the client hangs up
            self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Site) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_pictures_by_address(services: Services, site: str) -> None:
    codes = {
        "/nothing": "failed_{}_download",
        "/empty": "failed_{}_download",
        "/page": "invalid_file_type",
        "/large.png": "file_too_large",
    }
    settings = services.settings.model_copy(update={"url_allow": "127.0.0.1"})
    with create_app(Services.from_settings(settings)).test_client() as client:
        assert accepted(send(client, image_url=f"{site}/a.png"))
        assert accepted(client.post(REMOVE, json={"image_url": f"{site}/a.png"}))
        for path, code in codes.items():
            answer = send(client, image_url=site + path)
            assert error_of(answer) == (400, code.format("image"))
            answer = post(client, bg_image_url=site + path)
            assert error_of(answer) == (400, code.format("bg"))
        assert accepted(post(client, bg_image_url=f"{site}/a.png"))
        (job,) = services.runtime.job_store.read_newest([Status.QUEUED], 1).jobs
        assert job.background_key is not None
        assert services.runtime.object_store.get(job.background_key) == PICTURE


def test_inner_addresses_are_no_addresses(client: FlaskClient, site: str) -> None:
    assert error_of(send(client, image_url=f"{site}/a.png")) == (400, "invalid_image_url")
    assert error_of(post(client, bg_image_url=f"{site}/a.png")) == (400, "invalid_bg_image_url")


def test_a_background_may_be_as_large_as_the_picture(client: FlaskClient) -> None:
    data = PICTURE + bytes(2 * 2**20 - len(PICTURE))
    assert accepted(post(client, data, bg_image_file=file(data)))


def test_a_background_file_goes_along(client: FlaskClient, services: Services) -> None:
    behind = picture("JPEG")
    assert accepted(post(client, bg_image_file=file(behind, "bg.jpg"), format="jpg"))
    (job,) = services.runtime.job_store.read_newest([Status.QUEUED], 1).jobs
    assert job.background_key is not None
    assert services.runtime.object_store.get(job.background_key) == behind
    assert job.options["background_sha256"]
    assert job.options["matte_color"] is None


def test_still_working_is_503_with_a_time(client: FlaskClient) -> None:
    answer = post(client)
    assert accepted(answer)
    assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.parametrize(
    ("type_", "status", "code"),
    [
        ("invalid_image", 400, "failed_to_read_image"),
        ("roi_exceeds_bounds", 400, "roi_exceeds_bounds"),
        ("roi_region_empty", 400, "roi_region_empty"),
        ("internal_error", 500, "internal_error"),
        ("deadline_exceeded", 500, "internal_error"),
    ],
)
def test_what_a_worker_found(
    services: Services, monkeypatch: pytest.MonkeyPatch, type_: str, status: int, code: str
) -> None:
    error = JobError(type_, "That is how it is.")
    failed = Job("rm-1", "m", "q", "o", 1.0, 9e9, status=Status.FAILED, error=error)
    monkeypatch.setattr(TaskWaiter, "wait", lambda *_: (failed, True))
    with create_app(services).test_client() as client:
        answer = post(client)
    assert error_of(answer) == (status, code)
    assert answer.get_json()["errors"][0]["detail"] == "That is how it is."


@pytest.mark.parametrize(
    ("headers", "title"),
    [
        ({}, "Missing API Key"),
        ({"X-Api-Key": ""}, "Missing API Key"),
        ({"X-Api-Key": "wrong"}, "API Key invalid"),
        ({"Authorization": "Bearer wrong"}, "API Key invalid"),
    ],
)
def test_a_bad_key_is_403(services: Services, headers: dict[str, str], title: str) -> None:
    services.runtime.api_keys.add("shop")
    with create_app(with_settings(services, auth="on")).test_client() as client:
        for answer in (
            client.post(REMOVE, headers=headers),
            client.get("/v1.0/account", headers=headers),
            client.post("/v1.0/improve", headers=headers),
        ):
            assert answer.status_code == 403
            assert answer.get_json() == {"errors": [{"title": title, "code": "auth_failed"}]}


@pytest.mark.parametrize("header", ["X-Api-Key: {}", "x-api-key: {}", "Authorization: Bearer {}"])
def test_a_good_key_in_any_form(services: Services, header: str) -> None:
    _, key = services.runtime.api_keys.add("shop")
    name, _, value = header.format(key).partition(": ")
    with create_app(with_settings(services, auth="on")).test_client() as client:
        assert client.get("/v1.0/account", headers={name: value}).status_code == 200


def test_with_keys_off_any_key_or_none_will_do(client: FlaskClient) -> None:
    for headers in ({}, {"X-Api-Key": "whatever"}, {"X-Api-Key": "%API_KEY%"}):
        assert client.get("/v1.0/account", headers=headers).status_code == 200


def test_the_account_has_no_key_more_and_none_less(client: FlaskClient) -> None:
    attributes = client.get("/v1.0/account").get_json()["data"]["attributes"]
    assert set(attributes) == {"credits", "api"}
    assert set(attributes["credits"]) == {"total", "subscription", "payg", "enterprise"}
    assert set(attributes["api"]) == {"free_calls", "sizes"}
    assert attributes["credits"]["total"] > 0
    assert attributes["api"]["sizes"] == "all"


def test_improve_keeps_a_picture_only_where_that_is_wanted(services: Services) -> None:
    before = set(services.runtime.object_store.list("improvements/"))
    for keep in (False, True):
        app = create_app(with_settings(services, removebg_keep_improvements=keep))
        with app.test_client() as client:
            answer = send(client, "/v1.0/improve", image_file=file(), tag="shop")
            assert answer.status_code == 200
            assert set(answer.get_json()) == {"id"}
            assert error_of(client.post("/v1.0/improve")) == (400, "missing_source")
        added = set(services.runtime.object_store.list("improvements/")) - before
        assert added == ({f"improvements/{answer.get_json()['id']}"} if keep else set())


def test_over_the_rate_it_says_when_to_come_again(services: Services) -> None:
    app = create_app(with_settings(services, removebg_megapixels_per_minute=2))
    with app.test_client() as client:
        first, second, third = post(client), post(client), post(client)
    for answer, left in ((first, "1"), (second, "0")):
        assert accepted(answer)
        assert answer.headers["X-RateLimit-Limit"] == "2"
        assert answer.headers["X-RateLimit-Remaining"] == left
        assert int(answer.headers["X-RateLimit-Reset"]) > 1.7e9
    assert error_of(third) == (429, "rate_limit_exceeded")
    assert third.get_json()["errors"][0]["title"] == "Rate limit exceeded"
    assert 1 <= int(third.headers["Retry-After"]) <= 30


def test_a_picture_costs_its_megapixels(services: Services) -> None:
    app = create_app(with_settings(services, removebg_megapixels_per_minute=10))
    with app.test_client() as client:
        answer = post(client, picture("JPEG", (2000, 1500)))
    assert answer.headers["X-RateLimit-Remaining"] == "7"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", REMOVE, 405), ("POST", "/v1.0/account", 405), ("GET", "/v1.0/nothing", 404)],
)
def test_whatever_goes_wrong_has_the_shape(
    client: FlaskClient, method: str, path: str, status: int
) -> None:
    # Trap 6.
    assert error_of(client.open(path, method=method))[0] == status


def test_a_store_that_is_away_is_503_in_the_shape(server_settings: dict[str, object]) -> None:
    away = ApiSettings.load(**{**server_settings, "redis_url": "redis://127.0.0.1:1/0"})
    with create_app(Services.from_settings(away)).test_client() as client:
        answer = post(client)
    assert error_of(answer) == (503, "queue_unavailable")
    assert int(answer.headers["Retry-After"]) >= 1


def test_what_nobody_foresaw_is_500_in_the_shape(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("Nobody foresaw this.")

    monkeypatch.setattr(SubmissionService, "submit", crash)
    with create_app(services).test_client() as client:
        answer = post(client)
    assert error_of(answer) == (500, "internal_error")
    assert "foresaw" not in json.dumps(answer.get_json())


def test_any_web_page_may_call(client: FlaskClient) -> None:
    asked = client.options(REMOVE, headers={"Origin": "https://shop.example"})
    assert asked.status_code == 200
    assert asked.headers["Access-Control-Allow-Origin"] == "*"
    assert "X-Api-Key" in asked.headers["Access-Control-Allow-Headers"]
    assert "POST" in asked.headers["Access-Control-Allow-Methods"]
    assert client.options("/v1.0/nothing").headers["Access-Control-Allow-Methods"] == "POST"
    refused = client.get(REMOVE)
    assert "POST" in refused.headers["Allow"]
    assert "X-Width" in refused.headers["Access-Control-Expose-Headers"]
    assert "Access-Control-Allow-Origin" not in client.get("/api/v1/nothing").headers


def test_errors_elsewhere_keep_their_own_shape(client: FlaskClient) -> None:
    assert client.get("/api/v1/nothing").get_json()["error"]["type"] == "not_found"
