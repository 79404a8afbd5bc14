"""Each owner at each of its limits: it is refused by name, and another key notices nothing."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pytest
from werkzeug.test import TestResponse

from api.services import Services
from tasks.api_keys import ANONYMOUS, Owner
from tasks.quotas import KEPT_PER_UNFINISHED, Quota, Quotas, Usage
from tests.support.api import Api
from tests.support.receivers import Receiver, answering, receiver
from tests.support.service import RunningApi, RunningService, settings_of
from tests.support.submissions import PICTURE, png, refusal

TEXT: Final = base64.b64encode(PICTURE).decode()
#: Most requests that it takes to reach a limit.
_MOST: Final = 60
_SECONDS: Final = 120

Send = Callable[[Api], TestResponse]


def _begin(length: int) -> Send:
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(length)}
    return lambda api: api.post("/api/v1/uploads", headers=headers)


def _submit_an_upload_again_and_again() -> Send:
    made: list[str] = []

    def send(api: Api) -> TestResponse:
        if not made:
            headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(len(PICTURE))}
            headers["Content-Type"] = "application/offset+octet-stream"
            begun = api.post("/api/v1/uploads", headers=headers, data=PICTURE)
            made.append(begun.headers["Location"].rpartition("/")[2])
        return api.post("/api/v1/remove-bg", json={"upload_id": made[0]})

    return send


def _batches(pictures: int) -> Send:
    """Send batches, each of one picture more, up to a number."""
    sizes = iter(range(1, _MOST))

    def send(api: Api) -> TestResponse:
        items = [{"image_b64": TEXT}] * min(next(sizes, pictures), pictures)
        return api.post("/api/v1/remove-bg/batch", json={"items": items})

    return send


@dataclass(frozen=True)
class Limit:
    """A resource, how an owner uses it up, and the error that it gets then."""

    quota: Callable[[Usage], Quota]
    attack: Callable[[], Send]
    error: tuple[int, str]


_STORED: Final = (403, "storage_quota_exceeded")
_UPLOADS: Final = (429, "too_many_uploads")
_PENDING: Final = (429, "too_many_pending")
LIMITS: Final = {
    "bytes by files": Limit(
        lambda has: Quota(max_bytes=has.bytes + 5 * len(PICTURE)),
        lambda: lambda api: api.send(cache="true"),
        _STORED,
    ),
    "bytes by announced uploads": Limit(
        lambda has: Quota(max_bytes=has.bytes + 20 * 2**20), lambda: _begin(9 * 2**20), _STORED
    ),
    "bytes by copies of one upload": Limit(
        lambda has: Quota(max_bytes=has.bytes + 5 * len(PICTURE)),
        _submit_an_upload_again_and_again,
        _STORED,
    ),
    "unfinished uploads": Limit(
        lambda has: Quota(max_uploads=has.uploads + 3), lambda: _begin(5), _UPLOADS
    ),
    "uploads of no length": Limit(
        lambda has: Quota(max_uploads=has.kept_uploads // KEPT_PER_UNFINISHED + 1),
        lambda: _begin(0),
        _UPLOADS,
    ),
    "pending jobs": Limit(
        lambda has: Quota(max_pending=has.pending + 3), lambda: _batches(4), _PENDING
    ),
    "a share of all places": Limit(lambda _: Quota(all_pending=8), lambda: _batches(5), _PENDING),
}


@pytest.fixture(scope="module")
def keyed(service: RunningService) -> Iterator[Api]:
    """The API in this process, where keys are asked for, with two keys that have no limits."""
    api = Api.on(Services.from_settings(settings_of(service.env, auth="on")))
    none = {"max_bytes": 0, "max_uploads": 0, "max_pending": 0}
    tenants = {name: api.tenant(name, **none) for name in ("quiet", "greedy")}
    yield tenants["quiet"]
    for name in tenants:
        api.runtime.api_keys.revoke(name)


@pytest.fixture
def attacker(
    request: pytest.FixtureRequest, service: RunningService
) -> Iterator[tuple[Api, Owner]]:
    """The API as the owner sees it that a test's parameter names, and that owner."""
    if request.param == "anonymous":
        yield Api.on(Services.from_settings(settings_of(service.env))), ANONYMOUS
        return
    open_api = Api.on(Services.from_settings(settings_of(service.env, auth="on")))
    api, keys = open_api.tenant("attacker"), open_api.runtime.api_keys
    owner = keys.get(api.owner)
    assert owner is not None
    yield api, owner
    keys.revoke(owner.name)


def _served(api: Api, got: Receiver) -> tuple[Any, ...]:
    """What a caller sees of a picture from its submission to its webhook."""
    task_id = api.submit(image=png("olive"), webhook_url=got.url)
    assert got.wait_for(1, _SECONDS)
    (event,) = map(json.loads, got.bodies)
    task = api.data(f"/api/v1/tasks/{task_id}")
    assert event["data"]["task_id"] == task_id
    facts = ("status", "width", "height", "cached", "error")
    return (event["type"], *(task[name] for name in facts))


@pytest.fixture(scope="module")
def quiet(keyed: Api) -> tuple[Any, ...]:
    """What a caller sees while nobody attacks."""
    with receiver(answering(200)) as got:
        served = _served(keyed, got)
    assert served[:2] == ("removal.succeeded", "succeeded")
    return served


@contextmanager
def _going_on(attack: Callable[[], object]) -> Iterator[None]:
    """Repeat an attack while a block of code runs."""
    stopped = threading.Event()

    def repeat() -> None:
        while not stopped.wait(0.02):
            attack()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(_SECONDS)


@pytest.mark.parametrize(
    ("attacker", "name"),
    [*(("a key", name) for name in LIMITS), ("anonymous", "bytes by files")],
    indirect=["attacker"],
)
def test_an_owner_at_its_limit_is_refused_and_another_key_notices_nothing(
    keyed: Api, quiet: tuple[Any, ...], attacker: tuple[Api, Owner], name: str
) -> None:
    (api, owner), limit = attacker, LIMITS[name]
    api.runtime.quotas = Quotas(api.redis, limit.quota(api.runtime.quotas.usage(owner)))
    attack = limit.attack()
    answers = [attack(api)]
    assert answers[0].status_code < 300
    while answers[-1].status_code < 300:
        answers.append(attack(api))
        assert len(answers) < _MOST
    assert refusal(answers[-1]) == limit.error
    with receiver(answering(200)) as got, _going_on(lambda: attack(api)):
        assert _served(keyed, got) == quiet


@pytest.mark.slow
@pytest.mark.hostile
def test_of_4000_uploads_without_a_submission_a_thousand_are_kept(lone_api: RunningApi) -> None:
    api = Api.on(Services.from_settings(settings_of(lone_api.env, auth="on")))
    caller = api.tenant("uploader", rate_per_minute=1)
    longest = "filename " + base64.b64encode(bytes(3000)).decode()
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "100", "Upload-Metadata": longest}
    used = int(api.redis.info("memory")["used_memory"])
    answers = [caller.post("/api/v1/uploads", headers=headers) for _ in range(4000)]
    grown = int(api.redis.info("memory")["used_memory"]) - used
    api.runtime.api_keys.revoke("uploader")
    assert [each.status_code for each in answers] == [201] * 1000 + [429] * 3000
    assert grown < 20 * 2**20
