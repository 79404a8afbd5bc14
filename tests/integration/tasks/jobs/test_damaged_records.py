"""Records and messages that are not what this version writes, among good ones: those go on."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from redis import Redis
from structlog.testing import capture_logs

from tasks import redis_client, redis_keys
from tasks.app import create_celery
from tasks.errors import UnreadableRecordError
from tasks.housekeeping.missing_messages import list_key
from tasks.housekeeping.reconcile import Reconciler
from tasks.jobs.job import Priority, Status
from tasks.jobs.routing import JobDispatcher, Router
from tasks.jobs.store import Dispatch, JobStore
from tasks.redis_client import connect
from tasks.settings import Settings
from tasks.worker_registry import WorkerRegistry
from tests.support.jobs import make_job

MODEL, SHARED, GONE = "m", "model.m", "gpu.h.0"
AGEING = 60.0


@dataclass
class Scene:
    client: Redis
    dispatcher: JobDispatcher
    now: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.store = JobStore(self.client, clock=self.clock)
        self.reconciler = self.another()

    def clock(self) -> float:
        return self.now

    def another(self) -> Reconciler:
        registry = WorkerRegistry(self.client, clock=self.clock)
        return Reconciler(
            self.client,
            self.store,
            self.dispatcher,
            registry,
            Router(self.client),
            aging_seconds=AGEING,
            clock=self.clock,
        )

    def queued(
        self,
        *,
        sent: bool = True,
        queue: str = SHARED,
        priority: Priority = Priority.NORMAL,
        deadline: float | None = None,
    ) -> str:
        job = make_job(
            model=MODEL,
            queue=queue,
            created_at=self.now,
            expires_at=self.now + 1e6,
            priority=priority,
            deadline=deadline,
        )
        made = self.store.create(job).job
        if sent:
            self.dispatcher.send(made)
        return made.task_id

    def due(self) -> str:
        task_id = self.queued()
        self.store.cancel(task_id)
        self.store.requeue(task_id)
        return task_id

    def orphan(self) -> str:
        task_id = self.queued(sent=False)
        self.store.claim(task_id, token="t", worker="w")
        self.client.delete(redis_keys.lease_key(task_id))
        return task_id

    def running(self) -> str:
        task_id = self.queued(sent=False)
        self.store.claim(task_id, token="t", worker="w")
        return task_id

    def content(self, task_id: str) -> object:
        """All that may tell of a job, but for its lease's end."""
        sets = self.client.scan_iter(_type="zset")
        return (
            self.client.hgetall(redis_keys.job_key(task_id)),
            self.client.get(redis_keys.lease_key(task_id)),
            self.client.hgetall(redis_keys.COUNTERS),
            {name: self.client.zrange(name, 0, -1, withscores=True) for name in sets},
        )

    def messages(self, step: Priority = Priority.NORMAL, queue: str = SHARED) -> list[str]:
        """The jobs whose messages wait on a list, the next one first."""
        found = self.client.lrange(list_key(f"{queue}|{int(step)}"), 0, -1)
        heads = (json.loads(text)["headers"]["id"] for text in reversed(found))
        return [head.partition(".")[0] for head in heads]

    def passes(self, number: int = 2) -> None:
        for _ in range(number):
            assert self.reconciler.run_once()


@pytest.fixture
def scene(server_settings: dict[str, object]) -> Iterator[Scene]:
    settings = Settings.load(**server_settings)
    with (
        connect(str(server_settings["redis_url"])) as client,
        create_celery(settings) as app,
    ):
        yield Scene(client, JobDispatcher(app, JobStore(client)))


def _no_json(client: Redis, task_id: str) -> None:
    client.hset(redis_keys.job_key(task_id), "options", "{no json")


def _another_kind_of_json(client: Redis, task_id: str) -> None:
    client.hset(redis_keys.job_key(task_id), "options", "[1]")


def _no_number(client: Redis, task_id: str) -> None:
    client.hset(
        redis_keys.job_key(task_id), mapping={"redispatches": "x", "losses": "x", "created_at": "x"}
    )


def _of_a_later_version(client: Redis, task_id: str) -> None:
    client.hset(redis_keys.job_key(task_id), "priority", "1")


def _half_of_it(client: Redis, task_id: str) -> None:
    client.hdel(redis_keys.job_key(task_id), "model")


def _no_text(client: Redis, task_id: str) -> None:
    client.hset(redis_keys.job_key(task_id), "file_stem", b"\xff\xfe")


def _another_type(client: Redis, task_id: str) -> None:
    client.set(redis_keys.job_key(task_id), "no hash")


DAMAGES = (
    _no_json,
    _another_kind_of_json,
    _no_number,
    _of_a_later_version,
    _half_of_it,
    _no_text,
    _another_type,
)
damages = pytest.mark.parametrize("damage", DAMAGES)
Damage = Callable[[Redis, str], None]


@damages
def test_a_damaged_record_hides_no_other(scene: Scene, damage: Damage) -> None:
    before, bad, after = (scene.queued() for _ in range(3))
    damage(scene.client, bad)
    assert [job.task_id for job in scene.store.get_many([before, bad, after])] == [before, after]
    assert list(scene.store.read([before, bad, after]).unreadable) == [bad]
    with pytest.raises(UnreadableRecordError, match=f"{bad} cannot be read: .+ `rmbg restore`"):
        scene.store.get(bad)


@damages
def test_what_lost_its_worker_is_put_back_beside_a_damaged_record(
    scene: Scene, damage: Damage
) -> None:
    before, bad, after = (scene.orphan() for _ in range(3))
    damage(scene.client, bad)
    scene.passes()
    assert sorted(scene.messages()) == sorted([before, after])


@damages
def test_lost_messages_are_sent_again_beside_a_damaged_record(scene: Scene, damage: Damage) -> None:
    before, bad, after = (scene.queued(sent=False) for _ in range(3))
    damage(scene.client, bad)
    scene.passes()
    assert sorted(scene.messages()) == sorted([before, after])


@damages
def test_what_is_due_is_sent_beside_damaged_records(scene: Scene, damage: Damage) -> None:
    jobs = [scene.due() for _ in range(30)]
    # Of those that are routed one by one, and of those that go together.
    for bad in (jobs[0], jobs[20]):
        damage(scene.client, bad)
    scene.client.delete(list_key(f"{SHARED}|3"))
    scene.passes()
    assert sorted(scene.messages()) == sorted({*jobs} - {jobs[0], jobs[20]})


@damages
def test_a_backlog_is_moved_beside_a_damaged_record(scene: Scene, damage: Damage) -> None:
    before, bad, after = (scene.queued(queue=GONE) for _ in range(3))
    damage(scene.client, bad)
    scene.passes()
    assert sorted(scene.messages()) == sorted([before, after])


@damages
def test_a_damaged_record_takes_no_turn_at_aging(scene: Scene, damage: Damage) -> None:
    bad = [scene.queued(priority=Priority.LOW) for _ in range(20)]
    good = scene.queued(priority=Priority.LOW)
    for task_id in bad:
        damage(scene.client, task_id)
    scene.now += AGEING
    scene.passes(3)
    assert scene.messages(Priority.NORMAL) == [good]


@damages
def test_deadlines_are_kept_beside_a_damaged_record(scene: Scene, damage: Damage) -> None:
    before, bad, after = (scene.queued(deadline=scene.now + 1) for _ in range(3))
    damage(scene.client, bad)
    scene.now += 2
    scene.passes()
    assert {before, after} <= set(scene.store.ids(Status.FAILED))


@damages
def test_a_damaged_record_is_logged_and_counted_once_and_examined_once_a_minute(
    scene: Scene, damage: Damage
) -> None:
    bad = scene.due()
    damage(scene.client, bad)
    with capture_logs() as logs:
        for _ in range(5):
            scene.passes(1)
            scene.now += 30
    (line,) = [line for line in logs if line["log_level"] == "error"]
    assert (line["event"], line["task_id"], line["step"]) == ("job.skipped", bad, "send")
    assert line["reason"]
    assert scene.client.hget(redis_keys.COUNTERS, "skipped:send") == "1"
    assert bad in scene.store.ids(Status.QUEUED)


def test_a_record_that_was_mended_goes_on_by_itself(scene: Scene) -> None:
    task_id = scene.queued(sent=False)
    _no_json(scene.client, task_id)
    scene.passes()
    assert scene.messages() == []
    scene.client.hset(redis_keys.job_key(task_id), "options", "{}")
    scene.now += 61
    scene.passes(1)
    assert scene.messages() == [task_id]


@damages
def test_nothing_is_left_of_a_damaged_record_that_expired(scene: Scene, damage: Damage) -> None:
    bad = scene.queued()
    damage(scene.client, bad)
    scene.passes()
    scene.client.delete(redis_keys.job_key(bad))
    scene.passes(1)
    assert scene.store.ids(Status.QUEUED) == scene.client.zrange(redis_keys.DUE_JOBS, 0, -1) == []


def test_a_job_in_two_indices_is_not_recovered_for_ever(scene: Scene) -> None:
    done = scene.queued()
    scene.store.cancel(done)
    scene.client.zadd(redis_keys.index_key(Status.PROCESSING), {done: 1})
    scene.passes()
    assert scene.store.ids(Status.PROCESSING) == []
    assert scene.store.ids(Status.CANCELED) == [done]
    assert not scene.client.hget(redis_keys.COUNTERS, "recovered:lease_expired")


# -- what counts --------------------------------------------------------------------------------


def _claim(scene: Scene, task_id: str) -> object:
    return scene.store.claim(task_id, token="t", worker="w")


def _lose(scene: Scene, task_id: str) -> object:
    return scene.store.release(task_id, token="t")


def _crash(scene: Scene, task_id: str) -> object:
    return scene.store.crash(task_id, holder="t")


@pytest.mark.parametrize(
    ("step", "counted"), [(_claim, "attempts"), (_lose, "losses"), (_crash, "crashes")]
)
def test_a_step_that_a_damaged_count_refuses_changes_nothing(
    scene: Scene, step: Callable[[Scene, str], object], counted: str
) -> None:
    bad = scene.queued() if step is _claim else scene.running()
    scene.client.hset(redis_keys.job_key(bad), counted, "x")
    before = scene.content(bad)
    with pytest.raises(UnreadableRecordError, match="not an integer"):
        step(scene, bad)
    assert scene.content(bad) == before


def test_a_dispatch_that_a_damaged_count_refuses_changes_nothing(scene: Scene) -> None:
    bad = scene.due()
    scene.client.hset(redis_keys.job_key(bad), "redispatches", "x")
    before = scene.content(bad)
    assert scene.store.record_dispatches([Dispatch(bad, "another")]) == [None]
    assert scene.content(bad) == before


def test_the_loss_of_a_damaged_record_is_not_counted_in_every_pass(scene: Scene) -> None:
    bad = scene.orphan()
    scene.client.hset(redis_keys.job_key(bad), "losses", "x")
    scene.passes(3)
    assert scene.client.hget(redis_keys.COUNTERS, "losses") is None
    assert scene.store.ids(Status.PROCESSING) == [bad]


@pytest.mark.parametrize("value", ["x", "nan", "inf", "-inf", "1e300"])
def test_a_job_whose_numbers_are_damaged_ends_whole(scene: Scene, value: str) -> None:
    bad, duplicate = scene.queued(), scene.queued(sent=False)
    damaged = dict.fromkeys(("created_at", "cache_seconds", "expires_at", "priority"), value)
    scene.client.hset(redis_keys.job_key(bad), mapping={**damaged, "cache_key": "k"})
    scene.client.sadd(redis_keys.duplicates_key(bad), duplicate)
    assert scene.store.claim(bad, token="t", worker="w") == "claimed"
    assert scene.store.finish(bad, token="t", status=Status.SUCCEEDED)
    assert scene.store.ids(Status.SUCCEEDED) == [bad]
    assert scene.client.zrange(redis_keys.COMPLETING, 0, -1) == [bad]
    scene.client.hset(redis_keys.job_key(bad), "finished_at", value)
    assert scene.store.erase(bad)
    assert not scene.client.exists(redis_keys.job_key(bad))


def test_duplicates_get_a_new_primary_beside_one_whose_priority_is_damaged(scene: Scene) -> None:
    old, chosen, bad = (scene.queued(sent=False) for _ in range(3))
    for duplicate in (chosen, bad):
        scene.client.hset(redis_keys.job_key(duplicate), mapping={"primary": old, "cache_key": "k"})
        scene.client.sadd(redis_keys.duplicates_key(old), duplicate)
    scene.client.zadd(redis_keys.COMPLETING, {old: 1})
    scene.client.hset(redis_keys.job_key(bad), "priority", "x")
    promoted = redis_client.JOBS.run(
        scene.client, "promote_duplicate", id=chosen, primary=old, now=scene.now
    )
    assert promoted == chosen
    assert scene.client.smembers(redis_keys.duplicates_key(chosen)) == {bad}
    assert scene.client.zrange(redis_keys.COMPLETING, 0, -1) == []


# -- what ends a job -----------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [each for each in DAMAGES if each is not _another_type])
def test_a_damaged_job_is_ended_and_reported_as_any_other(scene: Scene, damage: Damage) -> None:
    bad = scene.queued()
    for name, value in (("webhook_url", "http://h/"), ("webhook_events", "{no json")):
        scene.client.hset(redis_keys.job_key(bad), name, value)
    damage(scene.client, bad)
    with scene.client.pubsub() as heard:
        heard.subscribe(redis_keys.done_channel(bad))
        assert heard.get_message(timeout=5) is not None
        assert scene.store.cancel(bad) == "canceled"
        assert heard.get_message(timeout=5) is not None
    assert scene.client.zcard(redis_keys.DELIVERIES_DUE) == 1


# -- messages ------------------------------------------------------------------------------------

UNKNOWN = ("no json", "[]", "{}", '{"headers": null}', '{"headers": {}}', b"\xff", "[" * 10**5)


@pytest.mark.parametrize("unknown", UNKNOWN, ids=range(len(UNKNOWN)))
def test_an_unknown_message_hides_no_missing_one(scene: Scene, unknown: str | bytes) -> None:
    lost = scene.queued(sent=False)
    elsewhere = scene.queued(sent=False, priority=Priority.LOW)
    waits = scene.queued()
    scene.client.rpush(list_key(f"{SHARED}|3"), unknown)
    with capture_logs() as logs:
        scene.passes(3)
    scene.client.ltrim(list_key(f"{SHARED}|3"), 0, -2)
    assert scene.messages() == [waits, lost]
    assert scene.messages(Priority.LOW) == [elsewhere]
    lines = [line for line in logs if line["event"] == "queue.unknown_message"]
    assert [line["list"] for line in lines] == [f"{SHARED}|3"]


@pytest.mark.parametrize("unknown", UNKNOWN, ids=range(len(UNKNOWN)))
def test_an_unknown_message_that_a_worker_holds_hides_no_missing_one(
    scene: Scene, unknown: str | bytes
) -> None:
    lost = scene.queued(sent=False)
    scene.client.hset("unacked", "tag", unknown)
    scene.client.zadd("unacked_index", {"tag": time.time() + 60})
    scene.passes()
    assert scene.messages() == [lost]


def test_a_list_with_nothing_but_unknown_messages_has_lost_ours(scene: Scene) -> None:
    lost = scene.queued(sent=False)
    scene.client.rpush(list_key(f"{SHARED}|3"), "no json", "{}")
    scene.passes()
    assert scene.client.llen(list_key(f"{SHARED}|3")) == 3
    assert scene.store.read([lost]).jobs[0].redispatches == 1


# -- many ----------------------------------------------------------------------------------------


def test_many_orphans_take_several_passes_and_none_outlasts_its_lock(scene: Scene) -> None:
    several = 700
    jobs = [scene.queued(sent=False) for _ in range(several)]
    with scene.client.pipeline() as pipe:
        for task_id in jobs:
            pipe.hset(redis_keys.job_key(task_id), "status", "processing")
            pipe.zadd(redis_keys.index_key(Status.PROCESSING), {task_id: 1})
            pipe.zrem(redis_keys.index_key(Status.QUEUED), task_id)
        pipe.execute()
    passes = 0
    while scene.store.ids(Status.PROCESSING):
        began = scene.store.counts()[Status.PROCESSING]
        scene.passes(1)
        assert 0 < began - scene.store.counts()[Status.PROCESSING] <= 500
        passes += 1
    assert passes >= 2
