"""An owner at each of its limits: it is refused by name, and another key notices nothing."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from werkzeug.test import TestResponse

from tasks.quotas import Quota, Quotas
from tests.support.api import Api
from tests.support.receivers import answering, receiver
from tests.support.service import RunningApi, RunningService, api_here
from tests.support.submissions import PICTURE, png, refusal

_BATCH: Final = "/api/v1/remove-bg/batch"
_TUS: Final = {"Tus-Resumable": "1.0.0"}
#: Most requests that it takes to reach a limit.
_MOST: Final = 60
_SECONDS: Final = 120


_PICTURE: Final = {"image_b64": base64.b64encode(PICTURE).decode()}
#: An owner's quota, how it is used up, and the error that the owner gets then. An upload of no
#: length is complete at once and kept as any other; a batch has a picture more each time, up to 5.
LIMITS: Final[dict[str, tuple[Quota, Callable[[Api, int], TestResponse], tuple[int, str]]]] = {
    "bytes": (
        Quota(max_bytes=5 * len(PICTURE)),
        lambda api, _: api.send(cache="true"),
        (403, "storage_quota_exceeded"),
    ),
    "uploads": (
        Quota(max_uploads=1),
        lambda api, _: api.post("/api/v1/uploads", headers={**_TUS, "Upload-Length": "0"}),
        (429, "too_many_uploads"),
    ),
    "a share of all places": (
        Quota(all_pending=8),
        lambda api, sent: api.post(_BATCH, json={"items": min(sent + 1, 5) * [_PICTURE]}),
        (429, "too_many_pending"),
    ),
}


@pytest.fixture
def callers(service: RunningService) -> Iterator[tuple[Api, Api]]:
    """A caller without limits, and an owner that has nothing yet, where keys are asked for."""
    keyed = api_here(service.env, auth="on")
    quiet = keyed.tenant("quiet", max_bytes=0, max_uploads=0, max_pending=0)
    yield quiet, keyed.tenant("greedy")
    for name in ("quiet", "greedy"):
        keyed.runtime.api_keys.revoke(name)


def _served(api: Api) -> tuple[Any, ...]:
    """What a caller sees of a picture from its submission to its webhook."""
    with receiver(answering(200)) as got:
        task_id = api.submit(image=png("olive"), webhook_url=got.url)
        assert got.wait_for(1, _SECONDS)
    (event,) = map(json.loads, got.bodies)
    task = api.data(f"/api/v1/tasks/{task_id}")
    assert event["data"]["task_id"] == task_id
    facts = ("status", "width", "height", "cached", "error")
    return (event["type"], *(task[name] for name in facts))


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


@pytest.mark.parametrize("name", LIMITS)
def test_an_owner_at_its_limit_is_refused_and_another_key_notices_nothing(
    callers: tuple[Api, Api], name: str
) -> None:
    quiet, greedy = callers
    before = _served(quiet)
    assert before[:2] == ("removal.succeeded", "succeeded")
    quota, attack, error = LIMITS[name]
    greedy.runtime.quotas = Quotas(greedy.redis, quota)
    answers = [attack(greedy, 0)]
    assert answers[0].status_code < 300
    while answers[-1].status_code < 300:
        answers.append(attack(greedy, len(answers)))
        assert len(answers) < _MOST
    assert refusal(answers[-1]) == error
    with _going_on(lambda: attack(greedy, len(answers))):
        assert _served(quiet) == before


def _bytes(api: Api) -> int:
    """What the keys of the API's database take; the server's memory is others' too."""
    return sum(api.redis.memory_usage(key, samples=0) or 0 for key in api.redis.scan_iter())


@pytest.mark.slow
@pytest.mark.hostile
def test_of_4000_uploads_without_a_submission_a_thousand_are_kept(lone_api: RunningApi) -> None:
    api = api_here(lone_api.env, auth="on")
    caller = api.tenant("uploader", rate_per_minute=1)
    longest = "filename " + base64.b64encode(bytes(3000)).decode()
    headers = {**_TUS, "Upload-Length": "100", "Upload-Metadata": longest}
    used = _bytes(api)
    answers = [caller.post("/api/v1/uploads", headers=headers) for _ in range(4000)]
    grown = _bytes(api) - used
    api.runtime.api_keys.revoke("uploader")
    assert [each.status_code for each in answers] == [201] * 1000 + [429] * 3000
    assert grown < 20 * 2**20
