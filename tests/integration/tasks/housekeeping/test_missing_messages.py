"""Messages that are missing, however that came: they are sent again, and others are not."""

import json
import time
from collections import Counter
from itertools import product

import pytest
from celery.bin.base import CLIContext
from celery.bin.purge import purge
from click.testing import CliRunner
from structlog.testing import capture_logs

from tasks import redis_keys
from tasks.app import create_celery
from tasks.housekeeping.missing_messages import list_key
from tasks.jobs.job import Priority
from tasks.settings import Settings
from tests.support.queues import OWN, SHARED, Queues

NORMAL = f"{SHARED}|{int(Priority.NORMAL)}"
OTHER = "model.other"
UNKNOWN = ("no json", "[]", "{}", '{"headers": null}', '{"headers": {}}', b"\xff", "[" * 10**5)


def test_a_message_that_is_nowhere_is_sent_again_at_the_second_look(queues: Queues) -> None:
    task_id = queues.submit(Priority.LOW, sent=False)
    queues.passes(1)
    assert queues.messages() == []
    for _ in range(4):
        queues.passes(1)
        assert queues.messages() == [task_id]
    assert queues.job(task_id).redispatches == 1


@pytest.mark.parametrize(
    "names", [(redis_keys.UNACKED, redis_keys.UNACKED_INDEX), redis_keys.FORMER_UNACKED]
)
def test_a_message_in_dead_hands_is_sent_again_before_the_visibility_timeout(
    queues: Queues, names: tuple[str, str]
) -> None:
    held, abandoned = queues.submit(), queues.submit()
    now = queues.clock()
    for task_id, taken in ((held, now + 60), (abandoned, now - 7)):
        message = json.loads(str(queues.redis.rpop(list_key(NORMAL))))
        queues.redis.hset(names[0], task_id, json.dumps([message, "", SHARED]))
        queues.redis.zadd(names[1], {task_id: taken})
    queues.passes()
    assert queues.messages() == [abandoned]
    assert queues.job(held).redispatches == 0


def test_unknown_messages_hide_no_missing_one(queues: Queues) -> None:
    lost = queues.submit(sent=False)
    elsewhere = queues.submit(queue=OTHER, model="other", sent=False)
    waits = queues.submit()
    queues.redis.rpush(list_key(NORMAL), *UNKNOWN)
    for number, text in enumerate(UNKNOWN):
        queues.redis.hset(redis_keys.UNACKED, f"tag {number}", text)
        queues.redis.zadd(redis_keys.UNACKED_INDEX, {f"tag {number}": time.time() + 60})
    with capture_logs() as logs:
        queues.passes(3)
    queues.redis.ltrim(list_key(NORMAL), 0, -1 - len(UNKNOWN))
    assert queues.messages() == [waits, lost]
    assert queues.messages(queue=OTHER) == [elsewhere]
    lines = [line for line in logs if line["event"] == "queue.unknown_message"]
    assert [line["list"] for line in lines] == [NORMAL]


def _purge(queues: Queues, *arguments: str) -> str:
    """Run Celery's own `purge` as an operator would; what it says."""
    with create_celery(Settings.load(redis_url=queues.app.conf.broker_url)) as app:
        context = CLIContext(app=app, no_color=True, workdir=None)
        done = CliRunner().invoke(purge, ["-f", *arguments], obj=context, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def _everywhere(queues: Queues) -> Counter[str]:
    """How many messages each job has, on all lists together."""
    return Counter(task_id for queue in (SHARED, OWN) for task_id in queues.messages(queue=queue))


def test_a_stock_purge_is_undone_for_every_job_exactly_once(queues: Queues) -> None:
    queues.registry.record_heartbeat("gpu0@h", queue=OWN)
    queues.registry.mark_ready("gpu0@h", 90, model="u2netp")
    jobs = [queues.submit(level, queue=each) for each, level in product((SHARED, OWN), Priority)]
    bound = jobs[3:]
    # It knows the queues that the application declares: that of the I/O workers alone.
    assert "No messages purged from 1 queue" in _purge(queues)
    assert _everywhere(queues) == Counter(jobs)
    assert "Purged 3 messages from 1 known task queue" in _purge(queues, "-Q", SHARED)
    assert _everywhere(queues) == Counter(bound)
    queues.passes(3)
    assert _everywhere(queues) == Counter(jobs)
    assert {job.queue for job in queues.store.get_many(bound)} == {OWN}
    assert [queues.job(each).redispatches for each in jobs] == [1] * 3 + [0] * 3
    assert "Purged 6 messages from 2 known task queues" in _purge(queues, "-Q", f"{SHARED},{OWN}")
    queues.passes(3)
    assert _everywhere(queues) == Counter(jobs)
    for job in queues.store.get_many(jobs):
        assert job.queue == SHARED
        assert queues.redis.zscore(redis_keys.dispatched_key(NORMAL), job.task_id)
