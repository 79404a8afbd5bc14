"""The result cache: whom it serves, with what, and for how long."""

import pytest

from api.services import Services
from tasks import redis_keys
from tasks.api_keys import Owner
from tasks.errors import QueueUnavailableError
from tasks.jobs.cache import JITTER_SECONDS, REDIS_SECONDS, cache_key, cache_ttl
from tasks.jobs.job import Status
from tasks.jobs.job_objects import get_manifest
from tests.support.equal_jobs import PICTURE, EqualJobs
from tests.support.pictures import read_picture
from tests.support.submissions import PATH, data_of, form, png, task_id_of


def test_a_known_result_comes_at_once_with_objects_of_its_own(equal: EqualJobs) -> None:
    api, photo = equal.client(), png("teal")
    theirs, mine = (
        form(image=(name, PICTURE), background_image=("b.png", photo))
        for name in ("theirs.png", "mine.png")
    )
    first = task_id_of(api.post(PATH, **theirs))
    equal.run(equal.now(first))
    data = data_of(api.post(PATH, **mine), 200)
    assert (data["status"], data["cached"], data["width"]) == ("succeeded", True, 60)
    assert data["task_id"] != first
    copy = equal.now(data["task_id"])
    assert equal.objects.get(copy.original_key) == PICTURE
    assert equal.objects.get(copy.background_key) == photo
    assert read_picture(equal.objects.get(copy.result_key)).size == (60, 40)
    assert copy.file_stem == "mine"
    # Should Redis be lost, the copy's manifest tells whose it is.
    assert get_manifest(equal.objects, copy.task_id).file_stem == "mine"


def test_another_process_finds_it_in_redis_for_the_time_that_was_drawn(equal: EqualJobs) -> None:
    first = equal.submit()
    equal.run(first)
    left = equal.redis.ttl(f"rmbg:cached:{first.cache_key}")
    assert first.cache_seconds - 5 <= left <= first.cache_seconds
    assert equal.submit().cached
    other = Services.from_settings(equal.services.settings)
    for services in (equal.services, other):
        assert services.runtime.result_cache.find(first.cache_key) is not None


def test_a_result_that_comes_to_be_known_during_a_submission_is_reused(
    equal: EqualJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    equal.run(equal.submit())
    cache = equal.services.runtime.result_cache
    monkeypatch.setattr(cache, "find", lambda _: None)
    assert equal.submit().cached


@pytest.mark.parametrize("call", ["remember", "forget"])
def test_pictures_do_not_stay_if_redis_goes_away_as_the_result_is_looked_up(
    equal: EqualJobs, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    first = equal.submit()
    equal.run(first)
    cache, before = equal.services.runtime.result_cache, set(equal.objects.list(""))
    if call == "forget":
        equal.objects.delete(str(equal.now(first).result_key))
        before.discard(str(equal.now(first).result_key))
    else:
        monkeypatch.setattr(cache, "find", lambda _: None)

    def go_away(*_: object) -> None:
        raise QueueUnavailableError("away")

    monkeypatch.setattr(cache, call, go_away)
    with pytest.raises(QueueUnavailableError):
        equal.submit()
    assert set(equal.objects.list("")) == before


@pytest.mark.parametrize("damaged", [False, True])
def test_a_result_that_cannot_be_copied_or_read_is_a_miss(
    equal: EqualJobs, *, damaged: bool
) -> None:
    first = equal.submit()
    equal.run(first)
    if damaged:
        equal.redis.hset(redis_keys.job_key(first.task_id), "options", "{no json")
    else:
        assert equal.submit().cached  # now in memory too
        equal.objects.delete(equal.now(first).result_key)
    again = equal.submit()
    assert (again.status, again.cached) == (Status.QUEUED, False)
    assert equal.redis.get(f"rmbg:cached:{first.cache_key}") is None
    equal.run(again)
    assert equal.submit().cached


def test_whoever_refuses_the_cache_neither_reads_nor_writes_nor_joins(equal: EqualJobs) -> None:
    apart, other = equal.submit(cache=False), equal.submit(cache=False)
    assert (apart.primary, other.primary) == (None, None)
    equal.run(apart)
    plain = equal.submit()
    assert (plain.cached, plain.primary) == (False, None)
    equal.run(plain)
    assert not equal.submit(cache=False).cached
    equal.run(other)
    assert equal.model.calls == 3
    assert equal.now(other).status is Status.SUCCEEDED


def test_nobody_profits_from_what_another_uploaded(equal: EqualJobs) -> None:
    alice, bob = Owner("a", "alice"), Owner("b", "bob")
    first = equal.submit(owner=alice)
    assert equal.submit(owner=alice).primary == first.task_id
    assert equal.submit(owner=bob).primary is None
    equal.run(first)
    assert equal.submit(owner=alice).cached
    assert not equal.submit(owner=bob).cached


def test_what_was_made_together_does_not_end_together() -> None:
    drawn = [cache_ttl(24 * 3600) for _ in range(500)]
    assert min(drawn) >= REDIS_SECONDS - JITTER_SECONDS
    assert max(drawn) <= REDIS_SECONDS + JITTER_SECONDS
    assert max(drawn) - min(drawn) > JITTER_SECONDS
    assert cache_ttl(60) == 60


def test_the_key_tells_apart_whatever_changes_the_result() -> None:
    base = {"owner": "a", "sha256": "f", "options": {"x": 1}, "model": "m", "revision": "r"}
    changes = {"owner": "b", "sha256": "g", "options": {"x": 2}, "model": "n", "revision": "s"}
    changed = {cache_key(**{**base, name: value}) for name, value in changes.items()}
    assert len(changed - {cache_key(**base)}) == 5
    assert cache_key(**base) == cache_key(**base)
