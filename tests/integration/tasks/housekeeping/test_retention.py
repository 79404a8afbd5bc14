"""What has expired goes, and nothing else: with a clock that is moved, real Redis and S3."""

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from minio.commonconfig import ENABLED, Filter
from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule
from redis import Redis

from tasks import redis_keys
from tasks.errors import ObjectStoreUnavailableError
from tasks.housekeeping.retention import (
    ORPHAN_GRACE_SECONDS,
    OrphanSweep,
    RetentionSweeper,
)
from tasks.jobs.batches import BatchStore
from tasks.jobs.job import Job, Status, new_task_id
from tasks.jobs.job_objects import Eraser, write_manifest
from tasks.jobs.store import RECORD_GRACE_SECONDS, JobStore, lease_token
from tasks.jobs.task_listing import TaskList
from tasks.object_store import (
    IMPROVEMENTS,
    UPLOAD_OBJECTS,
    ObjectStore,
    apply_lifecycle_rules,
    background_key,
    lifecycle_days,
    original_key,
    result_key,
    s3_client,
)
from tasks.redis_client import connect
from tasks.settings import Settings
from tasks.uploads.service import UploadService
from tasks.uploads.store import PART_BYTES, UploadStore
from tests.support.clock import Clock
from tests.support.jobs import make_job

HOUR = 3600.0


@dataclass
class World:
    settings: Settings
    clock: Clock
    client: Redis
    store: JobStore
    objects: ObjectStore
    uploads: UploadService
    sweeper: RetentionSweeper

    def bucket(self) -> set[str]:
        return set(self.objects.list(""))

    def redis(self) -> dict[str, object]:
        """Everything in Redis; a key's content in a form that can be compared."""
        read = {
            "hash": self.client.hgetall,
            "string": self.client.get,
            "set": self.client.smembers,
            "zset": lambda name: self.client.zrange(name, 0, -1, withscores=True),
            "list": lambda name: self.client.lrange(name, 0, -1),
        }
        # Those of the sweeper itself, and counts that only go up.
        own = {"rmbg:retention", "rmbg:retention:bucket", "rmbg:dispatch_seq", "rmbg:counters"}
        names = set(self.client.scan_iter()) - own
        return {name: read[str(self.client.type(name))](name) for name in names}


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def world(server_settings: dict[str, object], client: Redis) -> World:
    settings = Settings.load(
        **{**server_settings, "s3_bucket": f"{server_settings['s3_bucket']}-retention"}
    )
    clock = Clock(time.time())
    objects = ObjectStore.from_settings(settings)
    objects.ensure_bucket()
    for key in objects.list(""):
        objects.delete(key)
    store = JobStore(client, clock=clock)
    uploads = UploadService(
        UploadStore(client), objects, seconds=settings.retention_hours * HOUR, clock=clock
    )
    sweeper = RetentionSweeper(
        client,
        store,
        Eraser(store, objects),
        uploads,
        BatchStore(client),
        OrphanSweep(store, uploads.store, objects, uploads.seconds, clock),
        clock,
    )
    return World(settings, clock, client, store, objects, uploads, sweeper)


def _put(world: World, key: str, **metadata: str) -> None:
    world.objects.put(
        key,
        io.BytesIO(b"bytes"),
        5,
        "image/png",
        metadata={k.replace("_", "-"): v for k, v in metadata.items()},
    )


def _stored(world: World, *, hours: float) -> Job:
    """A job whose pictures are stored, and which has no record yet."""
    task_id = new_task_id()
    job = make_job(
        task_id=task_id,
        background_key=background_key(task_id),
        created_at=world.clock(),
        expires_at=world.clock() + hours * HOUR,
        owner="shop",
    )
    _put(world, background_key(task_id))
    world.objects.put(
        job.original_key, io.BytesIO(b"bytes"), 5, "image/png", metadata=write_manifest(job)
    )
    return job


def _job(world: World, *, hours: float, end: Status | None = Status.SUCCEEDED) -> Job:
    """A task with all that belongs to one, which expires so many hours from now."""
    job = _stored(world, hours=hours)
    task_id = job.task_id
    world.store.create(job)
    if end is not None:
        token = lease_token("gpu0@host", 1)
        world.store.claim(task_id, token=token, worker="gpu0@host")
        key = result_key(task_id, token, "png")
        _put(world, key)
        world.store.finish(task_id, token=token, status=end, result_key=key)
    return job


def _names(world: World, word: str) -> list[str]:
    """Where a word still stands, in Redis or in the bucket."""
    return [
        *(key for key in world.bucket() if word in key),
        *(name for name, value in world.redis().items() if word in name or word in str(value)),
    ]


def test_an_expired_task_goes_in_two_steps_and_nothing_else_does(world: World) -> None:
    stays = [_job(world, hours=100), _job(world, hours=100, end=None)]
    kept_upload = replace(world.uploads, seconds=100 * HOUR).create("", 5)
    bucket, redis = world.bucket(), world.redis()
    goes = [_job(world, hours=24), _job(world, hours=24, end=Status.FAILED)]
    waiting = _job(world, hours=24, end=None)

    world.clock.now += 23 * HOUR
    assert world.sweeper.run_once()
    assert len([key for key in world.bucket() if key.startswith("originals/")]) == 5

    world.clock.now += 1 * HOUR
    assert world.sweeper.run_once()
    assert world.bucket() == bucket
    for job in [*goes, waiting]:
        # Its record still says that there was one.
        assert world.store.get(job.task_id) is not None
    ended = world.store.get(waiting.task_id)
    assert ended is not None
    assert ended.error is not None
    assert (ended.status, ended.error.type) == (Status.FAILED, "expired")

    world.clock.now += RECORD_GRACE_SECONDS
    assert world.sweeper.run_once()
    for job in [*goes, waiting]:
        assert _names(world, job.task_id) == []
    after = world.redis()
    assert {name: after.get(name) for name in redis} == redis
    assert world.bucket() == bucket
    assert world.store.recorded([job.task_id for job in stays]) == {j.task_id for j in stays}
    assert world.uploads.store.get(kept_upload.upload_id) == kept_upload


def test_what_a_running_job_still_writes_after_its_expiry_is_swept(world: World) -> None:
    job = _job(world, hours=24, end=None)
    token = lease_token("gpu0@host", 1)
    world.store.claim(job.task_id, token=token, worker="gpu0@host")
    world.clock.now += 24 * HOUR
    world.sweeper.run_once()
    # It had the picture in memory; it stores its result, and dies before its write was refused.
    _put(world, result_key(job.task_id, token, "png"))
    assert not world.store.finish(job.task_id, token=token, status=Status.SUCCEEDED)
    world.client.delete("rmbg:retention:bucket")
    world.sweeper.run_once()
    assert world.bucket() == set()


def test_what_a_running_job_still_writes_after_an_erasure_is_swept_at_once(world: World) -> None:
    job = _job(world, hours=24, end=None)
    token = lease_token("gpu0@host", 1)
    world.store.claim(job.task_id, token=token, worker="gpu0@host")
    Eraser(world.store, world.objects).erase(job)
    _put(world, result_key(job.task_id, token, "png"))
    world.sweeper.run_once()
    assert world.bucket() == set()


def test_results_of_earlier_runs_go_and_the_one_that_counts_stays(world: World) -> None:
    job = _job(world, hours=24)
    done = world.store.get(job.task_id)
    assert done is not None
    left = result_key(job.task_id, lease_token("gpu1@host", 1), "png")
    _put(world, left)
    world.clock.now += ORPHAN_GRACE_SECONDS + 60
    assert world.sweeper.orphans.sweep() == [left]
    assert done.result_key in world.bucket()


def test_after_a_loss_of_redis_all_that_can_be_restored_stays_until_its_expiry(
    world: World,
) -> None:
    _job(world, hours=24)
    bucket = world.bucket()
    assert len(bucket) == 3
    world.client.flushdb()
    world.clock.now += 23 * HOUR
    world.sweeper.run_once()
    assert world.bucket() == bucket
    world.clock.now += HOUR
    world.client.flushdb()
    world.sweeper.run_once()
    world.client.flushdb()
    world.sweeper.run_once()
    assert world.bucket() == set()


def test_an_original_that_is_stored_before_its_record_is_left_alone(world: World) -> None:
    key = original_key(new_task_id())
    _put(world, key)
    assert world.sweeper.orphans.sweep() == []
    world.clock.now += ORPHAN_GRACE_SECONDS + 60
    assert world.sweeper.orphans.sweep() == [key]


def test_what_a_refused_submission_left_stays_until_its_expiry(world: World) -> None:
    """It got a 503, since it was unknown whether its record was written; it was not."""
    job = _stored(world, hours=24)
    world.clock.now += 23 * HOUR
    assert world.sweeper.orphans.sweep() == []
    world.clock.now += HOUR
    assert set(world.sweeper.orphans.sweep()) == {job.original_key, job.background_key}
    assert world.bucket() == set()


def test_an_object_that_is_not_ours_is_never_touched(world: World) -> None:
    _put(world, "elsewhere/picture.png")
    world.clock.now += 1000 * HOUR
    world.sweeper.run_once()
    assert world.bucket() == {"elsewhere/picture.png"}


class _Body:
    def __init__(self, data: bytes) -> None:
        self.read = io.BytesIO(data).read


def test_an_upload_expires_with_its_parts(world: World) -> None:
    upload = world.uploads.create("", PART_BYTES + 10)
    world.uploads.append("", upload.upload_id, 0, _Body(bytes(PART_BYTES + 4)))
    assert world.objects.list_multipart(UPLOAD_OBJECTS)
    world.clock.now += world.uploads.seconds
    world.sweeper.run_once()
    assert world.bucket() == set()
    assert world.objects.list_multipart(UPLOAD_OBJECTS) == []
    assert world.uploads.store.get(upload.upload_id) is not None
    world.clock.now += RECORD_GRACE_SECONDS
    world.sweeper.run_once()
    assert _names(world, upload.upload_id) == []


def test_an_upload_without_a_record_is_swept_with_its_parts(world: World) -> None:
    upload = world.uploads.create("", PART_BYTES + 10)
    world.uploads.append("", upload.upload_id, 0, _Body(bytes(PART_BYTES + 4)))
    world.client.flushdb()
    assert world.sweeper.orphans.sweep() == []
    world.clock.now += ORPHAN_GRACE_SECONDS + 60
    assert len(world.sweeper.orphans.sweep()) == 2
    assert world.bucket() == set()
    assert world.objects.list_multipart(UPLOAD_OBJECTS) == []


def test_an_improvement_goes_after_the_retention_time(world: World) -> None:
    key = f"{IMPROVEMENTS}picture"
    _put(world, key)
    world.clock.now += world.settings.retention_hours * HOUR - 60
    world.sweeper.run_once()
    assert key in world.bucket()
    world.client.delete("rmbg:retention:bucket")
    world.clock.now += 120
    world.sweeper.run_once()
    assert key not in world.bucket()


def test_one_sweeps_at_a_time(world: World) -> None:
    with world.client.lock("rmbg:retention", timeout=30):
        assert not world.sweeper.run_once()
    assert world.sweeper.run_once()


def test_lifecycle_rules_are_later_than_the_sweeper_and_spare_other_rules(
    world: World,
) -> None:
    client = s3_client(world.settings, str(world.settings.s3_endpoint))
    bucket = world.settings.s3_bucket
    other = Rule(
        ENABLED, rule_filter=Filter(prefix="logs/"), rule_id="theirs", expiration=Expiration(days=9)
    )
    client.set_bucket_lifecycle(bucket, LifecycleConfig([other]))
    for days in (lifecycle_days(24), lifecycle_days(72), lifecycle_days(72)):
        apply_lifecycle_rules(client, bucket, days)
    rules = client.get_bucket_lifecycle(bucket).rules
    found = {rule.rule_id: rule.expiration and rule.expiration.days for rule in rules}
    assert found == {
        "theirs": 9,
        "rmbg-originals": 5,
        "rmbg-backgrounds": 5,
        "rmbg-results": 5,
        "rmbg-uploads": 5,
        "rmbg-improvements": 5,
        "rmbg-parts": None,
    }
    assert lifecycle_days(24) * 24 > 24 + RECORD_GRACE_SECONDS / 3600


# -- what cannot be read, or does not go --------------------------------------------------------


def test_the_pictures_of_a_record_that_cannot_be_read_go_at_their_time_too(world: World) -> None:
    bad, waiting = _job(world, hours=24), _job(world, hours=24, end=None)
    good = _job(world, hours=24)
    for job in (bad, waiting):
        world.client.hset(redis_keys.job_key(job.task_id), "options", "{no json")
    assert world.sweeper.run_once()
    assert len(world.bucket()) == 8
    world.clock.now += 24 * HOUR
    assert world.sweeper.run_once()
    assert world.bucket() == set()
    assert world.client.hget(redis_keys.job_key(waiting.task_id), "status") == "failed"
    for job in (bad, waiting):
        # Redis drops it by its own clock.
        world.client.delete(redis_keys.job_key(job.task_id))
    world.clock.now += RECORD_GRACE_SECONDS
    assert world.sweeper.run_once()
    for job in (bad, good, waiting):
        assert job.task_id not in world.client.zrange(redis_keys.EXPIRIES, 0, -1)


def test_a_record_that_cannot_be_read_keeps_its_results_and_its_place(world: World) -> None:
    job = _job(world, hours=100)
    world.client.hset(redis_keys.job_key(job.task_id), "options", "{no json")
    bucket = world.bucket()
    world.clock.now += 2 * ORPHAN_GRACE_SECONDS
    # Without a manifest, only the record keeps them.
    _put(world, job.original_key)
    assert world.sweeper.run_once()
    assert world.bucket() == bucket
    tasks = TaskList(world.client, world.store)
    assert tasks.page("shop", limit=10, after=None, wanted=lambda _: True).jobs == []
    assert world.client.zrange(redis_keys.owner_tasks_key("shop"), 0, -1) == [job.task_id]


def test_an_object_that_does_not_go_holds_up_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays, goes = _job(world, hours=24), _job(world, hours=24)
    delete = ObjectStore.delete

    def locked(store: ObjectStore, key: str) -> None:
        if stays.task_id in key:
            raise ObjectStoreUnavailableError("Access Denied: the object is locked")
        delete(store, key)

    monkeypatch.setattr(ObjectStore, "delete", locked)
    world.clock.now += 24 * HOUR
    for _ in range(2):
        world.sweeper.run_once()
    assert _names_in_bucket(world, goes.task_id) == []
    assert len(_names_in_bucket(world, stays.task_id)) == 3
    monkeypatch.undo()
    world.clock.now += 600
    assert world.sweeper.run_once()
    assert world.bucket() == set()


def test_an_orphan_that_does_not_go_holds_up_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, left = (
        f"results/{new_task_id()}/a.png",
        f"results/{new_task_id()}/a.png",
    )
    for key in (locked, left):
        _put(world, key)
    delete = ObjectStore.delete

    def refuse(store: ObjectStore, key: str) -> None:
        if key == locked:
            raise ObjectStoreUnavailableError("Access Denied: the object is locked")
        delete(store, key)

    monkeypatch.setattr(ObjectStore, "delete", refuse)
    world.clock.now += 2 * ORPHAN_GRACE_SECONDS
    assert world.sweeper.run_once()
    assert world.bucket() == {locked}


def _names_in_bucket(world: World, word: str) -> list[str]:
    return [key for key in world.bucket() if word in key]
