"""What owners are charged, on a real Redis: in one step, within limits, and as the records say."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis

from tasks import redis_keys
from tasks.api_keys import ANONYMOUS, ApiKeys, Owner
from tasks.errors import QuotaExceededError
from tasks.jobs.store import JobStore
from tasks.quotas import KEPT_PER_UNFINISHED, RESERVED_SECONDS, Quota, Quotas
from tasks.uploads.store import ResumableUpload, UploadStore
from tests.support.clock import Clock
from tests.support.jobs import claim, finish, make_job
from tests.support.redis_content import mentions

SHOP = Owner("own-shop", "shop")
STUDIO = Owner("own-studio", "studio")


@pytest.fixture
def clock() -> Clock:
    # Redis lets keys expire by its own.
    return Clock(time.time())


@pytest.fixture
def quotas(redis: Redis, clock: Clock) -> Quotas:
    return Quotas(redis, Quota(max_bytes=100, max_uploads=2, max_pending=3), clock)


def _upload(name: str, length: int = 1, *, complete: bool = False) -> ResumableUpload:
    return ResumableUpload(name, SHOP.id, length, 1.7e9, 4e9, complete=complete)


def _has(quotas: Quotas, owner: Owner = SHOP) -> tuple[int, int, int, int]:
    usage = quotas.usage(owner)
    return usage.bytes, usage.uploads, usage.kept_uploads, usage.pending


def _submitted(store: JobStore, owner: Owner = SHOP, *, size: int = 0, **fields: Any) -> str:  # noqa: ANN401
    """Record a job; `size` is of the result with which it succeeds, if it does."""
    job = store.create(make_job(owner=owner.id, **fields)).job
    if size:
        finish(store, job, result_key=f"results/{job.task_id}/t.png", size=size)
    return job.task_id


def test_an_owner_has_its_keys_own_quota_or_the_services(quotas: Quotas) -> None:
    own = replace(SHOP, max_bytes=0, max_uploads=7)
    assert quotas.of(own) == Quota(0, 7, 3)
    assert quotas.of(ANONYMOUS) == quotas.default


def test_all_or_nothing_is_charged_and_twice_counts_once(quotas: Quotas) -> None:
    quotas.charge(SHOP, ["rm-1"], {"originals/rm-1": 60}, pending=True)
    assert _has(quotas) == (60, 0, 0, 1)
    quotas.charge(SHOP, ["rm-1"], {"originals/rm-1": 60, "backgrounds/rm-1": 40}, pending=True)
    assert _has(quotas) == (100, 0, 0, 1)
    with pytest.raises(QuotaExceededError, match=r"0\.0 MB stored.*erase tasks") as refused:
        quotas.charge(SHOP, ["rm-2"], {"originals/rm-2": 1}, pending=True)
    assert refused.value.code == "storage_quota_exceeded"
    with pytest.raises(QuotaExceededError, match="1 jobs queued or running, and may have 3 now"):
        quotas.charge(SHOP, ["rm-3", "rm-4", "rm-5"], {}, pending=True)
    assert _has(quotas) == (100, 0, 0, 1)
    assert _has(quotas, STUDIO) == (0, 0, 0, 0)
    quotas.release(SHOP.id, ["rm-1"], ["backgrounds/rm-1"])
    assert _has(quotas) == (60, 0, 0, 1)
    quotas.release(SHOP.id, ["rm-1"])
    assert _has(quotas) == (0, 0, 0, 0)


def test_many_at_once_pass_no_limit(quotas: Quotas) -> None:
    def charge(number: int) -> bool:
        try:
            quotas.charge(SHOP, [f"rm-{number}"], {f"originals/rm-{number}": 45}, pending=True)
        except QuotaExceededError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(charge, range(40))) == 2
    assert _has(quotas) == (90, 0, 0, 2)


def test_a_jobs_charges_live_as_its_record_and_pictures_do(quotas: Quotas, store: JobStore) -> None:
    job = make_job(owner=SHOP.id)
    quotas.charge(SHOP, [job.task_id], {job.original_key: 10}, pending=True)
    store.create(job)
    # A record holds it: a request that fails from here on releases nothing.
    quotas.release(SHOP.id, [job.task_id])
    assert _has(quotas) == (10, 0, 0, 1)
    # What runs may end above the quota; what comes then is refused.
    finish(store, job, result_key=f"results/{job.task_id}/t.png", size=95)
    assert _has(quotas) == (105, 0, 0, 0)
    with pytest.raises(QuotaExceededError):
        quotas.reserve(SHOP, "t", "originals/t", 1)
    store.release_pictures(job.task_id)
    assert _has(quotas) == (0, 0, 0, 0)


@pytest.mark.parametrize("way", ["cancel", "erase", "fail_overdue", "expire"])
def test_however_a_job_ends_it_is_pending_no_longer(
    quotas: Quotas, store: JobStore, clock: Clock, way: str
) -> None:
    task_id = _submitted(store, deadline=clock.now + 1)
    assert _has(quotas)[3] == 1
    clock.now += 2
    assert getattr(store, way)(task_id)
    assert _has(quotas)[3] == 0
    requeued = store.requeue(task_id) == "requeued"
    assert (_has(quotas)[3], requeued) == (requeued, way != "erase")


def test_uploads_are_counted_by_length_and_by_number_complete_or_not(quotas: Quotas) -> None:
    store, quota = UploadStore(quotas.client), quotas.of(SHOP)
    for name in ("up-1", "up-2"):
        store.create(_upload(name, 30), quota)
    assert _has(quotas) == (60, 2, 2, 0)
    with pytest.raises(QuotaExceededError, match="2 unfinished uploads, and your quota is 2"):
        store.create(_upload("up-3"), quota)
    # Completing one makes room for another, and one of no length never was unfinished.
    quotas.client.set(redis_keys.upload_lock_key("up-1"), "t", ex=60)
    store.commit(replace(_upload("up-1", 30), complete=True), "t")
    for number in range(3, KEPT_PER_UNFINISHED * 2 + 1):
        store.create(_upload(f"up-{number}", 0, complete=True), quota)
    assert _has(quotas) == (60, 1, 20, 0)
    with pytest.raises(QuotaExceededError, match="20 uploads, and your quota is 20 with the compl"):
        store.create(_upload("up-21", 0, complete=True), quota)
    store.remove("up-3")
    with pytest.raises(QuotaExceededError, match="MB stored"):
        store.create(_upload("up-21", 41), quota)
    store.release("up-1")
    store.release("up-1")
    assert _has(quotas)[0] == 30
    store.remove("up-1")
    store.create(_upload("up-21", 41), quota)
    assert _has(quotas) == (71, 2, 19, 0)


@pytest.mark.parametrize(
    ("keys", "others", "own", "most"),
    [(1, 0, 0, 0), (2, 0, 0, 6), (2, 4, 0, 4), (2, 4, 3, 3), (2, 11, 0, 1)],
)
def test_of_the_services_places_an_owner_has_no_more_than_it_leaves_free(
    store: JobStore, redis: Redis, *, keys: int, others: int, own: int, most: int
) -> None:
    for number in range(keys):
        ApiKeys(redis).add(f"key {number}")
    for number in range(others):
        task_id = _submitted(store, STUDIO)
        assert number or claim(store, task_id)  # one of them runs
    quotas = Quotas(redis, Quota(max_pending=own, all_pending=12))
    assert quotas.usage(SHOP).quota.max_pending == most
    allowed = most or 12
    ids = [f"rm-{number}" for number in range(allowed)]
    _submitted(store)
    assert quotas.usage(SHOP).quota.max_pending == most, "its own take none of its share"
    quotas.charge(SHOP, ids[:-1], {}, pending=True)
    if most:
        with pytest.raises(QuotaExceededError, match=f"may have {most} now"):
            quotas.charge(SHOP, ids[-1:], {}, pending=True)


@pytest.mark.parametrize(
    ("keys", "own", "others", "limit", "refused"),
    [
        (2, 5, 4, 8 * 5120, False),
        (2, 5, 4, 8 * 5120 - 1, True),
        (2, 5, 5, 1, False),
        (1, 5, 4, 1, False),
    ],
)
def test_while_redis_fills_up_who_keeps_more_than_all_others_keeps_no_more(
    redis: Redis, *, keys: int, own: int, others: int, limit: int, refused: bool
) -> None:
    for number in range(keys):
        ApiKeys(redis).add(f"key {number}")
    quotas = Quotas(redis)
    for owner, count in ((SHOP, own), (STUDIO, others)):
        quotas.charge(owner, [], {f"originals/{number}": 1 for number in range(count)})
    quotas.require_share(STUDIO, limit)
    if refused:
        with pytest.raises(QuotaExceededError, match="You keep 5"):
            quotas.require_share(SHOP, limit)
    else:
        quotas.require_share(SHOP, limit)


def _lost_job(quotas: Quotas, _: JobStore) -> None:
    """A process died between the charge and the record, or Redis's expiry took the record."""
    quotas.charge(SHOP, ["rm-1"], {"originals/rm-1": 9, "results/rm-1/t.png": 9}, pending=True)


def _lost_upload(quotas: Quotas, _: JobStore) -> None:
    UploadStore(quotas.client).create(_upload("up-1", 9), quotas.of(SHOP))
    quotas.client.delete(redis_keys.upload_key("up-1"))


def _wrong_sum(quotas: Quotas, _: JobStore) -> None:
    quotas.client.hset(redis_keys.STORED, SHOP.id, 77)


def _ended_by_an_older_version(quotas: Quotas, store: JobStore) -> None:
    task_id = _submitted(store)
    store.erase(task_id)
    quotas.client.zadd(redis_keys.pending_key(SHOP.id), {task_id: 0})
    quotas.client.hset(redis_keys.STORED, SHOP.id, 0)


@pytest.mark.parametrize("drift", [_lost_job, _lost_upload, _wrong_sum, _ended_by_an_older_version])
def test_what_no_record_holds_is_released(
    quotas: Quotas, store: JobStore, clock: Clock, drift: Callable[[Quotas, JobStore], None]
) -> None:
    drift(quotas, store)
    clock.now += RESERVED_SECONDS - 1
    young = _has(quotas) if drift is _lost_job else (0, 0, 0, 0)
    quotas.correct()
    assert _has(quotas) == young
    clock.now += 2
    quotas.correct()
    assert _has(quotas) == (0, 0, 0, 0)
    assert quotas.correct() == 0
    assert set(mentions(quotas.client, SHOP.id)) <= {redis_keys.owner_tasks_key(SHOP.id)}


def test_what_records_hold_is_counted_though_nobody_was_charged(
    quotas: Quotas, store: JobStore, redis: Redis
) -> None:
    _, done = _submitted(store), _submitted(store, size=50)
    UploadStore(redis).create(_upload("up-1", 7), quotas.of(SHOP))
    assert _has(quotas) == (57, 1, 1, 1)
    quotas.charge_found([(f"originals/{done}", 20)])
    assert _has(quotas) == (77, 1, 1, 1)
    # An older version of the service made all of that.
    names = (redis_keys.charges_key, redis_keys.pending_key, redis_keys.owner_uploads_key)
    redis.delete(redis_keys.STORED, *(name(SHOP.id) for name in names))
    assert quotas.correct() == 2
    assert _has(quotas) == (7, 1, 1, 1)
    found = [(f"originals/{done}", 20), (f"results/{done}/t.png", 50), ("originals/rm-gone", 9)]
    for _ in range(2):
        quotas.charge_found(found)
    assert _has(quotas) == (77, 1, 1, 1)
