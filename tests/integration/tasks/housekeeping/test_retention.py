"""What has expired goes, and nothing else: with a clock that is moved, real Redis and S3."""

import io
import time
from dataclasses import replace
from pathlib import Path

import pytest
from minio.commonconfig import ENABLED, Filter
from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule
from redis import Redis
from structlog.testing import capture_logs

from tasks import redis_keys
from tasks.errors import ObjectStoreUnavailableError, RedisFullError
from tasks.housekeeping import retention
from tasks.housekeeping.clock_check import ClockCheck
from tasks.housekeeping.retention import ORPHAN_GRACE_SECONDS, OrphanSweep, RetentionSweeper
from tasks.jobs.batches import Batch, BatchItem, BatchStore, new_batch_id
from tasks.jobs.job import EXPIRED, Job, Status, new_task_id
from tasks.jobs.job_objects import Eraser, put_manifest
from tasks.jobs.store import RECORD_GRACE_SECONDS, JobStore, lease_token
from tasks.jobs.task_listing import TaskList
from tasks.object_store import (
    IMPROVEMENTS,
    UPLOAD_OBJECTS,
    ObjectStore,
    apply_lifecycle_rules,
    background_key,
    lifecycle_days,
    manifest_key,
    original_key,
    result_key,
)
from tasks.quotas import Quotas
from tasks.redis_client import connect
from tasks.settings import Settings
from tasks.uploads.service import UploadService
from tasks.uploads.store import PART_BYTES, ResumableUpload, UploadStore
from tests.support.clock import Clock
from tests.support.jobs import claim, make_job, recorded
from tests.support.paths import holds
from tests.support.redis_content import content, mentions
from tests.support.servers import embedded_valkey
from tests.support.service import eventually

HOUR = 3600.0
LEASE = lease_token("gpu0@host", 1)


class World:
    """All that is kept of tasks and uploads, and the sweeper."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.redis, self.settings, self.clock = redis, settings, Clock(time.time())
        self.objects = ObjectStore.from_settings(settings)
        self.store = JobStore(redis, clock=self.clock)
        self.eraser = Eraser(self.store, self.objects)
        seconds = settings.retention_hours * HOUR
        uploads = UploadStore(redis)
        self.uploads = UploadService(uploads, self.objects, seconds=seconds, clock=self.clock)
        self.orphans = OrphanSweep(self.store, uploads, self.objects, seconds, self.clock)
        self.batches = BatchStore(redis)
        parts = (self.store, self.eraser, self.uploads, self.batches, self.orphans)
        # These tests move the clock by hours; test_clock_check.py has the check.
        self.sweeper = RetentionSweeper(redis, *parts, self.clock, self.clock)

    def bucket(self) -> set[str]:
        return set(self.objects.list(""))

    def names(self, word: str) -> list[str]:
        """Where a word still stands, in Redis or in the bucket."""
        return [*(key for key in self.bucket() if word in key), *mentions(self.redis, word)]

    def sweep(self, *, hours: float = 0, bucket: bool = False) -> None:
        """Run a pass so many hours later; with the bucket, whose turn may be later."""
        self.clock.now += hours * HOUR
        if bucket:
            self.redis.delete(redis_keys.BUCKET_SWEPT)
        assert self.sweeper.run_once()

    def put(self, key: str) -> str:
        self.objects.put(key, io.BytesIO(b"bytes"), 5, "image/png")
        return key

    def waiting(self, *, hours: float = 24) -> Job:
        """A job whose pictures are stored; it expires in `hours`."""
        task_id = new_task_id()
        job = make_job(
            task_id=task_id,
            background_key=self.put(background_key(task_id)),
            created_at=self.clock(),
            expires_at=self.clock() + hours * HOUR,
            owner="shop",
        )
        self.put(job.original_key)
        put_manifest(self.objects, job)
        return recorded(self.store, self.store.create(job).job)

    def running(self) -> Job:
        job = self.waiting()
        claim(self.store, job, LEASE)
        return job

    def finish(self, job: Job, status: Status = Status.SUCCEEDED) -> bool:
        """Store a running job's result and finish it; whether its record took that."""
        key = self.put(result_key(job.task_id, LEASE, "png"))
        return self.store.finish(job.task_id, token=LEASE, status=status, result_key=key)

    def done(self, *, hours: float = 24, status: Status = Status.SUCCEEDED) -> Job:
        job = self.waiting(hours=hours)
        claim(self.store, job, LEASE)
        assert self.finish(job, status)
        return recorded(self.store, job)

    def damage(self, job: Job) -> None:
        self.redis.hset(redis_keys.job_key(job.task_id), "options", "{no json")

    def upload(self, *, hours: float = 24) -> ResumableUpload:
        """An upload of which one part and a rest have come; it expires in `hours`."""
        uploads = replace(self.uploads, seconds=hours * HOUR)
        upload = uploads.create("", PART_BYTES + 10)
        return uploads.append("", upload.upload_id, 0, io.BytesIO(bytes(PART_BYTES + 4)))


@pytest.fixture
def world(emptied: Settings, redis: Redis) -> World:
    return World(redis, emptied)


def test_an_expired_task_goes_in_two_steps_and_nothing_else_does(world: World) -> None:
    stays = [world.done(hours=100), world.waiting(hours=100)]
    kept_upload = world.upload(hours=100)
    bucket = world.bucket()
    waiting = world.waiting()
    goes = [world.done(), world.done(status=Status.FAILED), waiting]

    world.sweep(hours=23)
    assert len([key for key in world.bucket() if key.startswith("originals/")]) == 5

    world.sweep(hours=1)
    assert world.bucket() == bucket
    # Their records still say that there were such.
    assert len(world.store.get_many([job.task_id for job in goes])) == 3
    ended = recorded(world.store, waiting)
    assert (ended.status, ended.error) == (Status.FAILED, EXPIRED)

    world.sweep(hours=RECORD_GRACE_SECONDS / HOUR)
    for job in goes:
        assert world.names(job.task_id) == []
    assert world.bucket() == bucket
    assert [recorded(world.store, job) for job in stays] == stays
    assert world.uploads.store.get(kept_upload.upload_id) == kept_upload
    assert [each.key for each in world.objects.list_multipart(UPLOAD_OBJECTS)] == [kept_upload.key]


def test_a_full_redis_lets_jobs_end_and_all_be_erased(emptied: Settings, tmp_path: Path) -> None:
    with embedded_valkey(tmp_path) as url, connect(url) as redis:
        world = World(redis, emptied)
        batches, now = world.batches, world.clock()
        batch = Batch(new_batch_id(), "shop", now, now + 24 * HOUR)
        batches.create(batch)
        runs, waits, done = world.running(), world.waiting(), world.done()
        ends, begins = world.waiting(), world.waiting()
        jobs = [runs, waits, done, ends]
        for job in jobs:
            redis.hset(redis_keys.job_key(job.task_id), "batch_id", batch.batch_id)
        batches.seal(batch, [BatchItem("name.png", job.task_id) for job in jobs])
        uploads = [world.upload() for _ in range(2)]
        redis.config_set("maxmemory", 1)
        with pytest.raises(RedisFullError):
            world.waiting()

        # What was accepted is worked off.
        assert world.finish(runs)
        claim(world.store, begins, LEASE)
        assert world.finish(begins)
        assert world.store.cancel(ends.task_id)
        for job in (waits, done):
            world.eraser.erase(job)
        world.uploads.end("", uploads[0].upload_id)
        left = batches.get(batch.batch_id).items
        assert [item.name for item in left] == ["name.png", "", "", "name.png"]
        world.sweep(hours=24, bucket=True)
        world.sweep(hours=RECORD_GRACE_SECONDS / HOUR, bucket=True)
        assert world.bucket() == set()
        Quotas(redis, clock=world.clock).correct()
        for word in (*(job.task_id for job in jobs), batch.batch_id, uploads[1].upload_id):
            assert world.names(word) == []
        assert redis.hgetall(redis_keys.STORED) == {}


@pytest.mark.parametrize("erased", [False, True])
def test_what_a_job_writes_after_expiry_or_erasure_is_swept(world: World, *, erased: bool) -> None:
    job = world.running()
    if erased:
        world.eraser.erase(job)
    else:
        world.sweep(hours=24)
    # It had the picture in memory; it stores its result, and dies before its write was refused.
    assert not world.finish(job)
    world.sweep(bucket=True)
    assert world.bucket() == set()


def test_what_no_record_names_goes_but_not_at_once_and_the_rest_is_charged(world: World) -> None:
    job = world.done()
    of_an_earlier_run = world.put(result_key(job.task_id, lease_token("gpu1@host", 1), "png"))
    # A process died between the two.
    half = {world.put(key(new_task_id())) for key in (original_key, manifest_key)}
    found = list[tuple[str, int]]()
    orphans = replace(world.orphans, charge_found=found.extend)
    assert orphans.sweep() == []
    named = {job.original_key, job.background_key, job.result_key}
    assert set(found) == {(key, world.objects.size(key)) for key in named}
    world.clock.now += ORPHAN_GRACE_SECONDS + 60
    assert set(orphans.sweep()) == {of_an_earlier_run, *half}
    assert job.result_key in world.bucket()


def test_after_a_loss_of_redis_what_can_be_restored_stays_until_its_expiry(world: World) -> None:
    world.done()
    bucket = world.bucket()
    assert len(bucket) == 4
    world.redis.flushdb()
    world.sweep(hours=23)
    assert world.bucket() == bucket
    world.sweep(hours=1, bucket=True)
    world.sweep(bucket=True)
    assert world.bucket() == set()


def test_an_upload_expires_with_its_parts(world: World) -> None:
    upload = world.upload()
    assert world.objects.list_multipart(UPLOAD_OBJECTS)
    world.sweep(hours=world.uploads.seconds / HOUR)
    assert world.bucket() == set()
    assert world.objects.list_multipart(UPLOAD_OBJECTS) == []
    assert world.uploads.store.get(upload.upload_id) is not None
    world.sweep(hours=RECORD_GRACE_SECONDS / HOUR)
    assert world.names(upload.upload_id) == []


def test_an_upload_without_a_record_is_swept_with_its_parts(world: World) -> None:
    world.upload()
    world.redis.flushdb()
    assert world.orphans.sweep() == []
    world.clock.now += ORPHAN_GRACE_SECONDS + 60
    assert len(world.orphans.sweep()) == 2
    assert world.bucket() == set()
    assert world.objects.list_multipart(UPLOAD_OBJECTS) == []


def test_an_improvement_goes_in_time_and_what_is_not_ours_never(world: World) -> None:
    ours, other = world.put(f"{IMPROVEMENTS}picture"), world.put("elsewhere/picture.png")
    world.sweep(hours=world.settings.retention_hours - 0.1)
    assert world.bucket() == {ours, other}
    world.sweep(hours=0.2, bucket=True)
    assert world.bucket() == {other}


def test_one_sweeps_at_a_time_and_a_pass_that_lost_its_lock_says_so(world: World) -> None:
    def overtaken() -> float:
        world.redis.delete(redis_keys.SWEEPER_LOCK)
        return world.clock()

    with world.redis.lock(redis_keys.SWEEPER_LOCK, timeout=30):
        assert not world.sweeper.run_once()
    with capture_logs() as logs:
        assert not replace(world.sweeper, trusted_time=overtaken).run_once()
    assert logs[-1]["event"] == "retention.lock_lost"


@pytest.mark.parametrize("block", ["_OBJECTS_PER_BLOCK", "_EXPIRED_PER_BLOCK"])
def test_a_pass_that_takes_long_does_all_of_it_and_is_no_jump_of_the_clock(
    world: World, monkeypatch: pytest.MonkeyPatch, block: str
) -> None:
    check = ClockCheck(world.redis, world.clock, lambda _: world.clock())
    for _ in range(3):
        world.put(original_key(new_task_id()))
        world.done(hours=0)
    monkeypatch.setattr(retention, block, 1)

    def trusted() -> float | None:
        """Five minutes pass for each task or object that is looked at."""
        world.clock.now += 300
        return check.trusted_time()

    assert replace(world.sweeper, trusted_time=trusted).run_once()
    assert check.trusted_time() is not None
    assert len(world.bucket()) == 3, "the pictures of tasks that are due are gone"


def test_lifecycle_rules_are_later_than_the_sweeper_and_spare_other_rules(world: World) -> None:
    client, bucket = world.objects.client, world.objects.bucket
    logs, nine_days = Filter(prefix="logs/"), Expiration(days=9)
    other = Rule(ENABLED, rule_filter=logs, rule_id="theirs", expiration=nine_days)
    client.set_bucket_lifecycle(bucket, LifecycleConfig([other]))
    ours = ("originals", "manifests", "backgrounds", "results", "uploads", "improvements")
    # What was stored for the longer retention is kept for it.
    for hours, shorten, wanted in (
        *((24, False, 3), (72, False, 5), (72, False, 5)),
        *((24, False, 5), (24, True, 3)),
    ):
        apply_lifecycle_rules(client, bucket, lifecycle_days(hours), shorten=shorten)
        rules = client.get_bucket_lifecycle(bucket).rules
        found = {rule.rule_id: rule.expiration and rule.expiration.days for rule in rules}
        assert found == {
            "theirs": 9,
            **{f"rmbg-{each}": wanted for each in ours},
            "rmbg-parts": None,
        }
    assert lifecycle_days(24) * 24 > 24 + RECORD_GRACE_SECONDS / 3600


def test_the_pictures_of_a_record_that_cannot_be_read_go_at_their_time_too(world: World) -> None:
    bad, waiting, good = world.done(), world.waiting(), world.done()
    for job in (bad, waiting):
        world.damage(job)
    world.sweep()
    assert len(world.bucket()) == 11
    world.sweep(hours=24)
    assert world.bucket() == set()
    assert world.redis.hget(redis_keys.job_key(waiting.task_id), "status") == "failed"
    for job in (bad, waiting):
        # Redis drops it by its own clock.
        world.redis.delete(redis_keys.job_key(job.task_id))
    world.sweep(hours=RECORD_GRACE_SECONDS / HOUR)
    left = set(world.redis.zrange(redis_keys.EXPIRIES, 0, -1))
    assert not left & {bad.task_id, good.task_id, waiting.task_id}


def test_a_record_that_cannot_be_read_keeps_its_results_and_its_place(world: World) -> None:
    job = world.done(hours=100)
    world.damage(job)
    bucket = world.bucket()
    # Without a manifest, only the record keeps them.
    world.put(job.original_key)
    world.sweep(hours=2 * ORPHAN_GRACE_SECONDS / HOUR)
    assert world.bucket() == bucket
    tasks = TaskList(world.redis, world.store)
    assert tasks.page("shop", limit=10, after=None, wanted=lambda _: True).jobs == []
    assert world.redis.zrange(redis_keys.owner_tasks_key("shop"), 0, -1) == [job.task_id]


def test_an_object_that_does_not_go_holds_up_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete, stays = ObjectStore.delete, world.done()
    locked = world.bucket()
    world.done()
    orphan, _ = (world.put(f"results/{new_task_id()}/a.png") for _ in range(2))

    def refuse(store: ObjectStore, key: str) -> None:
        if key == orphan or stays.task_id in key:
            raise ObjectStoreUnavailableError("Access Denied: the object is locked")
        delete(store, key)

    monkeypatch.setattr(ObjectStore, "delete", refuse)
    assert len(world.orphans.sweep()) == 1
    world.clock.now += 24 * HOUR
    for _ in range(2):
        world.sweeper.run_once()
    assert world.bucket() == {*locked, orphan}
    monkeypatch.undo()
    world.sweep(hours=1 / 6, bucket=True)
    assert world.bucket() == set()


def test_a_clock_that_may_be_wrong_takes_nothing_with_it(world: World) -> None:
    world.done()
    bucket, kept = world.bucket(), content(world.redis)
    world.clock.now += 25 * HOUR
    assert not replace(world.sweeper, trusted_time=lambda: None).run_once()
    assert (world.bucket(), content(world.redis)) == (bucket, kept)
    world.sweep(bucket=True)
    assert world.bucket() == set()


def test_redis_file_holds_what_was_erased_for_a_day_at_most(world: World, tmp_path: Path) -> None:
    def held() -> bool:
        return holds(tmp_path, b"word-of-a-caller", "*.aof")

    with embedded_valkey(tmp_path) as url, connect(url) as own:
        own.set("k", "word-of-a-caller")
        own.delete("k")
        assert held()
        World(own, world.settings).sweep()
        eventually("the file is rewritten", lambda: not held())
        assert 0 < own.ttl(redis_keys.FILE_REWRITTEN) <= 24 * 3600
