"""The reconciler: what it sends again, raises, moves and forgets."""

import random
from collections import Counter, defaultdict

import pytest
from structlog.testing import capture_logs

from tasks import redis_keys
from tasks.housekeeping import reconcile
from tasks.housekeeping.reconcile import MAX_AGED
from tasks.jobs.job import Job, Priority, Status
from tasks.jobs.store import LAST_PAUSE_SECONDS, ClaimOutcome, lease_token
from tasks.redis_client import connect
from tests.support.commands import crash
from tests.support.jobs import claim, finish
from tests.support.queues import AGING, OWN, SHARED, Queues, Taken

#: The queue of a model that the worker of the queue `OWN` has not loaded.
OTHER = "model.other"


def _urgency(job: Job) -> Priority:
    return job.priority if job.raised_priority is None else job.raised_priority


def _consistent(queues: Queues) -> None:
    """Each queued job is on the one list that its record names, or due; others are on none.

    On its list it waits among its owner's jobs, the more urgent ones first, and the owners of a
    list's jobs have their turns.
    """
    redis = queues.redis
    places: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for name in queues.store.lists():
        on_list = redis.zrange(redis_keys.dispatched_key(name), 0, -1, withscores=True)
        for task_id, number in on_list:
            places[task_id].append((name, number))
    due = set(redis.zrange(redis_keys.DUE_JOBS, 0, -1))
    assert set(places) | due == set(queues.store.ids(Status.QUEUED))
    assert not set(places) & due
    jobs = queues.store.get_many(list(places))
    assert len(jobs) == len(places)
    urgency = {job.task_id: _urgency(job) for job in jobs}
    expected: dict[str, set[str]] = defaultdict(set)
    for job in jobs:
        name = f"{job.queue}|{int(Priority.NORMAL)}"
        assert places[job.task_id] == [(name, job.dispatch_seq)]
        expected[f"rmbg:waiting:{name}:{job.owner}"].add(job.task_id)
        expected[f"rmbg:turns:{name}"].add(job.owner)
        if _urgency(job) is not job.priority:
            expected[f"rmbg:raised:{name}:{job.owner}"].add(job.task_id)
    in_order = {key: redis.zrange(key, 0, -1) for key in redis.keys("rmbg:waiting:*")}
    ranks = [[urgency[each] for each in found] for found in in_order.values()]
    assert ranks == [sorted(each) for each in ranks]
    turns = {key: redis.zrange(key, 0, -1) for key in redis.keys("rmbg:turns:*")}
    raised = {key: redis.smembers(key) for key in redis.keys("rmbg:raised:*")}
    assert {key: set(held) for key, held in (in_order | turns | raised).items()} == expected


def test_many_due_jobs_are_not_all_bound_to_one_gpu(queues: Queues) -> None:
    queues.registry.record_heartbeat("gpu0@h", queue=OWN, model="u2netp")
    queues.registry.mark_ready("gpu0@h", 90)
    jobs = [queues.due() for _ in range(20)]
    queues.passes(1)
    assert queues.store.due() == []
    assert [queues.job(each).queue for each in jobs].count(OWN) == 2
    _consistent(queues)


def test_a_step_that_fails_stops_no_other(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise ValueError("a fault of the project")

    monkeypatch.setattr(type(queues.registry), "workers", fail)
    late = queues.due()
    with capture_logs() as logs:
        queues.passes(1)
    assert queues.messages() == [late]
    failed = [line["step"] for line in logs if line["event"] == "reconciler.step_failed"]
    assert failed == ["_move_backlogs"]


def test_one_pass_at_a_time_and_one_that_is_overtaken_ends(
    queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    with queues.redis.lock(redis_keys.RECONCILER_LOCK, timeout=30):
        assert not queues.reconciler.run_once()

    def expire(_: object) -> list[object]:
        queues.redis.delete(redis_keys.RECONCILER_LOCK)
        return []

    due = queues.due()
    monkeypatch.setattr(type(queues.registry), "workers", expire)
    with capture_logs() as logs:
        assert not queues.reconciler.run_once()
    assert [line["event"] for line in logs] == ["reconciler.overtaken"]
    assert queues.store.due() == [due]


def test_redis_away_ends_a_pass_without_an_error(queues: Queues) -> None:
    with connect("redis://127.0.0.1:1/0", timeout=0.2) as away:
        assert not Queues(away, queues.app).reconciler.run_once()


def test_a_step_that_has_no_time_left_leaves_its_jobs_to_the_next_pass(
    queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = queues.due()
    monkeypatch.setattr(reconcile, "_STEP_SECONDS", -1.0)
    queues.passes(1)
    assert queues.messages() == []
    monkeypatch.undo()
    queues.passes(1)
    assert queues.messages() == [due]


def test_many_orphans_take_several_passes(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "_MAX_PER_STEP", 5)
    for _ in range(12):
        queues.orphan()
    left = []
    for _ in range(3):
        queues.passes(1)
        left.append(len(queues.store.ids(Status.PROCESSING)))
    assert left == [7, 2, 0]
    assert queues.redis.hget(redis_keys.COUNTERS, "recovered:lease_expired") == "12"


def test_a_job_in_two_indices_is_not_recovered_for_ever(queues: Queues) -> None:
    done = queues.submit()
    queues.store.cancel(done)
    queues.redis.zadd(redis_keys.index_key(Status.PROCESSING), {done: 1})
    queues.passes()
    assert queues.store.ids(Status.PROCESSING) == []
    assert queues.store.ids(Status.CANCELED) == [done]
    assert not queues.redis.hget(redis_keys.COUNTERS, "recovered:lease_expired")


def test_a_job_that_waited_is_raised_step_by_step_until_it_is_requeued(queues: Queues) -> None:
    task_id = queues.submit(Priority.LOW)
    levels = (Priority.LOW, Priority.NORMAL, Priority.HIGH, Priority.HIGH)
    for seconds, level in zip((AGING - 1, 1, AGING, AGING), levels, strict=True):
        queues.clock.now += seconds
        queues.passes(1)
        job = queues.job(task_id)
        assert (_urgency(job), job.priority) == (level, Priority.LOW)
        _consistent(queues)
    assert queues.messages() == [task_id]
    claim(queues.store, task_id)
    queues.store.release(task_id, token="t")
    queues.passes(1)
    assert _urgency(queues.job(task_id)) is Priority.HIGH, "also over a loss"
    queues.store.cancel(task_id)
    queues.store.requeue(task_id)
    assert _urgency(queues.job(task_id)) is Priority.LOW
    _consistent(queues)


def test_a_batch_is_raised_a_few_at_a_time_behind_what_is_more_urgent(queues: Queues) -> None:
    batch = [queues.submit(Priority.LOW, owner="x") for _ in range(20)]
    others = [queues.submit(Priority.LOW, owner="y") for _ in range(20)]
    normal = [queues.submit(owner="x") for _ in range(3)]
    queues.clock.now += AGING
    queues.passes(5)
    normal += [queues.submit(owner="x")]
    _consistent(queues)
    raised = {each for each in batch + others if queues.job(each).raised_priority is not None}
    assert raised == {*others[:MAX_AGED]}, "what is raised from normal to high counts as well"
    assert [queues.job(each).raised_priority for each in normal] == [Priority.HIGH] * 2 + [None] * 2
    for _ in range(2 * MAX_AGED):
        queues.run()
    queues.passes(1)
    raised = {each for each in batch + others if queues.job(each).raised_priority is not None}
    assert raised - {*others[:MAX_AGED]} == {batch[0], *others[MAX_AGED : 2 * MAX_AGED]}
    order = [queues.run() for _ in range(40)]
    assert [each for each in order if each in {*batch, *normal}] == [*normal[2:], *batch]


def test_a_requeued_job_may_be_begun_by_its_former_message_and_crash(queues: Queues) -> None:
    task_id = queues.submit(Priority.HIGH)
    former = queues.take_of(task_id)
    queues.store.cancel(task_id)
    queues.store.requeue(task_id)
    assert queues.claim(former, lease_token("w", 1)).claim is ClaimOutcome.CLAIMED
    queues.store.crash(task_id, holder="w/1/")
    _consistent(queues)


class Chance:
    """Does any of the things that happen to jobs of several owners."""

    def __init__(self, queues: Queues, seed: int) -> None:
        self.random = random.Random(seed)
        self._queues, self._store = queues, queues.store
        self._reconcilers = [queues.another(), queues.another()]
        self._held: list[tuple[str, str, Taken]] = []
        self._lost: list[Taken] = []
        #: Owners by job.
        self.jobs: dict[str, str] = {}
        #: Jobs by how often they succeeded.
        self.done: Counter[str] = Counter()
        #: By list and owner: who had a turn since the owner's jobs wait there, or its last turn.
        self._passed: dict[tuple[str, str], set[str]] = {}
        #: List and owner of the jobs that waited at the last look.
        self._waited: dict[str, tuple[str, str]] = {}

    def submit(self) -> None:
        queue, sent = self.random.choice((SHARED, SHARED, OWN)), self.random.random() < 0.8
        priority, owner = self.random.choice(list(Priority)), self.random.choice("xxxxyz")
        # The worker of that GPU has another model by now.
        other = {"model": "other"} if queue == OWN and self.random.random() < 0.3 else {}
        job = self._queues.submit(priority, queue=queue, sent=sent, owner=owner, **other)
        self.jobs[job] = owner

    def strike(self) -> None:
        self.random.choice(
            (
                self.take,
                self.take,
                self.finish,
                self._crash,
                self._lose,
                self._give_back,
                self._pass_on,
                self._revoke,
                self._wait,
                self._pop,
                lambda: self._store.cancel(self._any()),
                lambda: self._store.requeue(self._any()),
                lambda: self.random.choice(self._reconcilers).run_once(),
            )
        )()
        self._forget_passed(self._waiting())

    def _forget_passed(self, waiting: dict[str, tuple[str, str]]) -> None:
        """Drop the owners whose jobs have all left a list: with other ones they come to it anew."""
        stayed = {place for job, place in waiting.items() if self._waited.get(job) == place}
        self._passed = {
            place: self._passed.get(place, set()) if place in stayed else set()
            for place in waiting.values()
        }
        self._waited = waiting

    def _any(self) -> str:
        return self.random.choice([*self.jobs])

    def _waiting(self) -> dict[str, tuple[str, str]]:
        """The list and the owner of each job that waits on a list."""
        return {
            task_id: (name, self.jobs[task_id])
            for name in self._store.lists()
            for task_id in self._queues.redis.zrange(redis_keys.dispatched_key(name), 0, -1)
        }

    def _pop(self) -> Taken | None:
        queue = self.random.choice((SHARED, OWN, OTHER))
        return self._queues.take(queue=queue)

    def take(self) -> None:
        """Claim by a message; nobody has two turns on a list while another one waits there."""
        token, taken = lease_token("w", self.random.randrange(4)), self._pop()
        if taken is None:
            return
        waiting = self._waiting()
        self._forget_passed(waiting)
        model = "other" if taken.list_name.startswith(OTHER) else "u2netp"
        turn = self._queues.claim(taken, token, model=model)
        if turn.claim is not ClaimOutcome.CLAIMED:
            return
        assert self._queues.job(turn.task_id).model == model
        self._held.append((turn.task_id, token, taken))
        if turn.task_id not in waiting:
            # It was due, and its message came all the same: that is a turn of its owner too.
            self._has_its_turn(self.jobs[turn.task_id])
            return
        list_name, owner = waiting[turn.task_id]
        self._has_its_turn(owner)
        for (name, other), passed in self._passed.items():
            if name == list_name:
                assert owner not in passed, f"{owner} had two turns, {other} none"
                passed.add(owner)

    def _has_its_turn(self, owner: str) -> None:
        """Note a turn: of whatever list the job was, it counts on the model's shared one too."""
        self._passed = {place: by for place, by in self._passed.items() if place[1] != owner}

    def _let_go(self) -> list[tuple[str, str, Taken]]:
        """The oldest job that a worker holds, if any: it holds it no longer."""
        oldest, self._held = self._held[:1], self._held[1:]
        return oldest

    def finish(self) -> None:
        for task_id, token, _ in self._let_go():
            self.done[task_id] += self._store.finish(task_id, token=token, status=Status.SUCCEEDED)

    def _crash(self) -> None:
        for task_id, token, taken in self._let_go():
            self._store.crash(task_id, holder=token.rpartition("/")[0] + "/")
            self._lost.append(taken)

    def _lose(self) -> None:
        for task_id, _, taken in self._let_go():
            self._queues.redis.delete(redis_keys.lease_key(task_id))
            self._lost.append(taken)

    def _give_back(self) -> None:
        """A message of a dead worker comes back, soon or late."""
        if self._lost:
            self._queues.give_back(self._lost.pop(self.random.randrange(len(self._lost))))

    def _pass_on(self) -> None:
        if taken := self._pop():
            self._store.postpone(taken.task_id, seconds=1, message=taken.message)

    def _revoke(self) -> None:
        if taken := self._pop():
            self._store.cancel(taken.task_id)
            self._store.postpone(taken.task_id, seconds=0, message=taken.message)

    def _wait(self) -> None:
        self._queues.clock.now += self.random.choice((1, AGING))


def _finish_all(queues: Queues, chance: Chance) -> None:
    """Let the workers go on until no job waits."""
    for _ in range(100):
        for _ in range(len(chance.jobs)):
            chance.take()
            chance.finish()
        queues.clock.now += LAST_PAUSE_SECONDS
        queues.passes(3)
        if not queues.store.ids(Status.QUEUED) + queues.store.ids(Status.PROCESSING):
            return
    raise AssertionError("jobs are left")


@pytest.mark.parametrize("steps", [150, *[pytest.param(300, marks=pytest.mark.slow)] * 12])
def test_records_and_lists_agree_whatever_happens_in_any_order(queues: Queues, steps: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - shown with a failure
    chance = Chance(queues, seed)
    for number in range(steps):
        if number % 4 == 0:
            chance.submit()
        chance.strike()
        _consistent(queues)
    _finish_all(queues, chance)
    ends = Counter(queues.status(each) for each in chance.jobs)
    assert set(chance.done.values()) <= {0, 1}
    assert ends[Status.SUCCEEDED] == chance.done.total()
    assert ends.total() == len(chance.jobs) == sum(ends[each] for each in Status if each.final)
    queues.passes(2)
    left = [*queues.redis.scan_iter("rmbg:turns:*"), *queues.redis.scan_iter("rmbg:waiting:*")]
    assert left == queues.store.lists() == []


def test_nothing_is_left_of_records_that_expired(queues: Queues) -> None:
    store, redis = queues.store, queues.redis
    jobs = [*(queues.submit(chosen) for chosen in Priority for _ in range(5)), queues.due()]
    done, poison, canceled, running, aged = jobs[:5]
    finish(store, done)
    crash(store, poison)
    store.cancel(canceled)
    claim(store, running)
    queues.clock.now += AGING
    queues.passes(1)
    assert aged in store.ids(Status.QUEUED)
    # Redis's own clock is not ours to move.
    redis.delete(*map(redis_keys.job_key, jobs), redis_keys.lease_key(running))
    redis.zadd(redis_keys.DELIVERIES_DEAD, {f"msg_{done}_1": 1})
    queues.passes()
    kept = {redis_keys.owner_tasks_key(""), redis_keys.pending_key(""), "rmbg:served"}
    kept |= {redis_keys.QUEUE_LISTS}
    sets = {key for kind in ("zset", "set") for key in redis.scan_iter("rmbg:*", _type=kind)}
    assert sets - kept == set()
    assert store.lists() == []


def test_a_large_set_is_pruned_in_parts(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, index = queues.submit(), redis_keys.index_key(Status.SUCCEEDED)
    queues.redis.zadd(index, {f"rm-gone-{number}": float(number) for number in range(400)})
    for number in range(200):  # half of them have a record
        queues.redis.set(redis_keys.job_key(f"rm-gone-{number}"), "", ex=3600)
    monkeypatch.setattr(reconcile, "_SCAN_COUNT", 50)
    parts = []
    while (before := queues.redis.zcard(index)) > 200:
        queues.passes(1)
        parts.append(before - queues.redis.zcard(index))
        assert len(parts) < 40
    assert max(parts) < 150
    assert queues.store.ids(Status.QUEUED) == queues.messages() == [kept]
    assert queues.redis.zcard(redis_keys.dispatched_key(f"{SHARED}|3")) == 1
