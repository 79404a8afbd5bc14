"""Quotas on the way in: refused before anything is kept, counted once, given back."""

import base64
import io
from collections.abc import Callable, Iterator
from typing import Any, Final
from unittest.mock import Mock

import pytest
from werkzeug.test import TestResponse

from api.errors import ERRORS
from tasks.errors import ObjectStoreUnavailableError
from tasks.quotas import RESERVED_SECONDS, Quotas
from tests.support.api import Api
from tests.support.redis_content import content
from tests.support.removebg_requests import error_of, post
from tests.support.serving import Request, answer, serving
from tests.support.stores import WatchedStore
from tests.support.submissions import PATH, PICTURE, data_of, form, refusal, task_id_of

SETTINGS = {"auth": "on", "url_allow": "127.0.0.1", "removebg_keep_improvements": True}

SIZE: Final = len(PICTURE)
TEXT: Final = base64.b64encode(PICTURE).decode()
BATCH: Final = "/api/v1/remove-bg/batch"
TUS: Final = {"Tus-Resumable": "1.0.0"}


class Site:
    """A web server with a picture, which counts its visits."""

    visits = 0
    url = ""
    meanwhile: Callable[[], object] = staticmethod(lambda: None)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()

    def handle(request: Request) -> None:
        site.visits += 1
        site.meanwhile()
        answer(200, PICTURE, Content_Type="image/png")(request)

    with serving(handle) as port:
        site.url = f"http://127.0.0.1:{port}/cup.png"
        yield site


def _limit(caller: Api, **quotas: int | None) -> None:
    caller.runtime.api_keys.set_quotas("shop", **quotas)


def _has(caller: Api) -> tuple[int, int, int]:
    owner = caller.runtime.api_keys.get(caller.owner)
    assert owner is not None
    usage = caller.runtime.quotas.usage(owner)
    return usage.bytes, usage.uploads, usage.pending


def _upload(caller: Api, data: bytes = PICTURE) -> str:
    uploads = caller.runtime.uploads
    upload = uploads.create(caller.owner, len(data))
    uploads.append(caller.owner, upload.upload_id, 0, io.BytesIO(data))
    return upload.upload_id


def _images(*pictures: bytes) -> dict[str, Any]:
    return form(*(("images", (f"{each}.png", data)) for each, data in enumerate(pictures)))


def _begin(caller: Api, length: int = 1) -> TestResponse:
    return caller.post("/api/v1/uploads", headers={**TUS, "Upload-Length": str(length)})


Send = Callable[[Api, str, str], TestResponse]
#: Ways to send a picture, given the id of an upload and an address.
WAYS: Final[dict[str, Send]] = {
    "file": lambda api, _u, _a: api.send(),
    "address": lambda api, _u, address: api.post(PATH, json={"image_url": address}),
    "upload": lambda api, upload, _a: api.post(PATH, json={"upload_id": upload}),
    "background": lambda api, _u, address: api.send(background_url=address),
    "batch of files": lambda api, _u, _a: api.post(BATCH, **_images(PICTURE, PICTURE)),
    "batch in JSON": lambda api, upload, address: api.post(
        BATCH, json={"items": [{"image_url": address}, {"upload_id": upload}, {"image_b64": TEXT}]}
    ),
    "remove.bg": lambda api, _u, address: api.post("/v1.0/removebg", json={"image_url": address}),
    "remove.bg file": lambda api, _u, _a: post(api, PICTURE),
    "improvement": lambda api, _u, _a: post(api, PICTURE, path="/v1.0/improve"),
    "begun upload": lambda api, _u, _a: _begin(api),
}


def _kept(api: Api, site: Site) -> tuple[object, ...]:
    """All that a submission would add to."""
    held = {name: value for name, value in content(api.redis).items() if ":rate:" not in name}
    return held, api.bucket(), site.visits


#: The error and the quota of a resource of which a picture, an upload and a task leave nothing.
FULL: Final = {
    "bytes": ("storage_quota_exceeded", {"max_bytes": 2 * SIZE + 1}),
    "pending": ("too_many_pending", {"max_pending": 1}),
    "uploads": ("too_many_uploads", {"max_uploads": 1}),
}


@pytest.mark.parametrize(
    ("way", "resource"),
    [
        *((way, "bytes") for way in WAYS),
        *((way, "pending") for way in WAYS if way not in {"improvement", "begun upload"}),
        ("begun upload", "uploads"),
    ],
)
def test_nothing_is_kept_or_fetched_where_there_is_no_room(
    shop: Api, site: Site, way: str, resource: str
) -> None:
    upload, begun = _upload(shop), _begin(shop)
    shop.submit()
    type_, quota = FULL[resource]
    _limit(shop, **quota)
    before = _kept(shop, site)
    answer = WAYS[way](shop, upload, site.url)
    other_api = "errors" in answer.get_json()
    status = 429 if other_api else ERRORS[type_].status
    assert (error_of if other_api else refusal)(answer) == (status, type_)
    assert f'"{resource}";r=0' in answer.headers["Quota"]
    assert ("Retry-After" in answer.headers) == (status == 429)
    assert _kept(shop, site) == before
    _limit(shop, max_pending=None, max_bytes=None)
    shop.delete(begun.headers["Location"].removeprefix("http://localhost"), headers=TUS)
    if "remove.bg" not in way:  # which waits for the result
        assert WAYS[way](shop, upload, site.url).status_code < 300


@pytest.mark.parametrize(
    ("way", "pictures", "quotas", "type_"),
    [
        ("address", 1, {"max_bytes": 2 * SIZE}, "storage_quota_exceeded"),
        ("background", 2, {"max_bytes": 3 * SIZE}, "storage_quota_exceeded"),
        ("batch in JSON", 3, {"max_pending": 3}, "too_many_pending"),
    ],
)
def test_what_has_no_room_beside_a_picture_that_is_being_fetched_is_not_fetched(
    shop: Api, site: Site, way: str, pictures: int, *, quotas: dict[str, int], type_: str
) -> None:
    upload, other = _upload(shop), shop.application.test_client()
    _limit(shop, **quotas)
    other.environ_base.update(shop.environ_base)
    refused, before = list[TestResponse](), site.visits
    site.meanwhile = lambda: refused.append(other.post(PATH, json={"image_url": site.url}))
    try:
        assert WAYS[way](shop, upload, site.url).status_code == 202
    finally:
        del site.meanwhile
    assert site.visits == before + 1
    assert [refusal(each)[1] for each in refused] == [type_]
    assert _has(shop)[0] == SIZE + pictures * SIZE


def test_each_copy_of_an_upload_is_charged_and_erasure_makes_room(shop: Api) -> None:
    upload, reserved = _upload(shop), list[int]()
    _limit(shop, max_bytes=3 * SIZE)

    class Observed(WatchedStore):
        def chunks(self, key: str) -> Iterator[bytes]:
            reserved.append(_has(shop)[0])
            return shop.objects.chunks(key)

    watched = shop.with_parts(object_store=Observed(shop.objects))

    def submit() -> TestResponse:
        return watched.post(PATH, json={"upload_id": upload, "cache": False})

    first, second, refused = submit(), submit(), submit()
    assert (first.status_code, second.status_code) == (202, 202)
    # With one key there is no share of the service's places.
    assert first.headers["Quota-Policy"] == f'"bytes";q={3 * SIZE}, "uploads";q=1000'
    assert second.headers["Quota"] == '"bytes";r=0, "uploads";r=1000'
    assert refusal(refused) == (403, "storage_quota_exceeded")
    # While one is copied, what it does not need is there for others.
    assert reserved == [2 * SIZE, 3 * SIZE]
    shop.delete(f"/api/v1/tasks/{task_id_of(first)}")
    assert _has(shop) == (2 * SIZE, 0, 1)
    assert submit().status_code == 202


def test_a_batch_is_charged_at_once_and_gives_back_what_became_no_task(shop: Api) -> None:
    _limit(shop, max_pending=2)
    three = [{"image_b64": TEXT}] * 3
    for sent, error in (
        (_images(*[PICTURE] * 3), (429, "too_many_pending")),
        ({"json": {"items": three}}, (429, "too_many_pending")),
        (form(("images", ("a", PICTURE)), ("qualty", "9")), (422, "unknown_parameter")),
        ({"json": {"items": three[:2], "quality": 0}}, (422, "invalid_parameter")),
    ):
        assert refusal(shop.post(BATCH, **sent)) == error
        assert _has(shop) == (0, 0, 0)
    mixed = data_of(shop.post(BATCH, json={"items": [{"image_b64": "!!"}, {"image_b64": TEXT}]}))
    assert mixed["counts"]["queued"] == 1
    assert _has(shop) == (SIZE, 0, 1)


def test_while_redis_fills_up_whoever_keeps_the_most_keeps_no_more(shop: Api, studio: Api) -> None:
    # Refused items of batches alone, which are no tasks and store no picture.
    sent = {"json": {"items": [{"image_url": "http://10.0.0.1/"}] * 3}}
    batch = data_of(shop.post(BATCH, **sent))["batch_id"]
    shop.runtime.quotas.correct()
    studio.submit()
    scarce = Mock(scarce_bytes=1.0)
    keeps_most, others = shop.with_parts(capacity=scarce), studio.with_parts(capacity=scarce)
    for name, send in WAYS.items():
        assert b"You keep 3" in send(keeps_most, "", "").data, name
    assert others.send().status_code == 202
    data_of(shop.delete(f"/api/v1/batches/{batch}"), 200)
    assert keeps_most.send().status_code == 202


def test_what_could_not_be_stored_is_given_back(shop: Api) -> None:
    def away(_: str) -> None:
        raise ObjectStoreUnavailableError("It went away.")

    failing = shop.with_parts(object_store=WatchedStore(shop.objects, away))
    for way in ("file", "batch of files", "remove.bg file", "improvement"):
        assert WAYS[way](failing, "", "").status_code == 503
        assert _has(shop) == (0, 0, 0)


def test_results_and_copies_of_results_are_charged(shop: Api) -> None:
    first = task_id_of(shop.send(cache="true"))
    duplicate = task_id_of(shop.send(cache="true"))
    assert _has(shop) == (2 * SIZE, 0, 2)
    shop.finish(first, b"a cutout")
    assert _has(shop) == (2 * SIZE + 8, 0, 1)
    known = shop.send(cache="true")
    assert known.status_code == 200
    assert _has(shop) == (3 * SIZE + 16, 0, 1)
    _limit(shop, max_bytes=4 * SIZE + 23)
    assert refusal(shop.send(cache="true")) == (403, "storage_quota_exceeded")
    for task_id in (first, duplicate, task_id_of(known)):
        shop.delete(f"/api/v1/tasks/{task_id}")
    assert _has(shop) == (0, 0, 0)


def test_a_copy_without_room_leaves_nothing_behind(shop: Api) -> None:
    first = task_id_of(shop.send(cache="true"))
    _limit(shop, max_bytes=2 * SIZE + 8)

    def finish_first(key: str) -> None:
        # An equal job ends while this one's picture is stored.
        if key.startswith("originals/"):
            shop.finish(first, b"a cutout")

    bucket = shop.bucket()
    watched = shop.with_parts(object_store=WatchedStore(shop.objects, finish_first))
    assert refusal(watched.send(cache="true")) == (403, "storage_quota_exceeded")
    assert _has(shop) == (SIZE + 8, 0, 0)
    assert shop.bucket() - bucket == {shop.job(first).result_key}


def test_an_improvement_is_charged_for_as_long_as_it_is_kept(shop: Api) -> None:
    assert WAYS["improvement"](shop, "", "").status_code == 200
    runtime, kept = shop.runtime, shop.services.settings.retention_hours * 3600
    for later, left in ((RESERVED_SECONDS, SIZE), (kept + 60, 0)):
        clock = shop.services.clock() + later
        Quotas(runtime.redis, runtime.quotas.default, lambda at=clock: at).correct()
        assert _has(shop) == (left, 0, 0)
