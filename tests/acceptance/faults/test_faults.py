"""One fault at a time, on real processes. What `make test` leaves out is marked slow."""

import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from cluster import (
    HOST,
    Cluster,
    assert_exactly_once,
    await_processing,
    cluster,
    job,
    picture,
    submit,
    submit_many,
    wait_final,
    wait_for,
)
from faulty_worker import GROW, HANG_ONCE, KILL, SLOW

from api.services import Services
from tasks import keys
from tasks.dispatch import job_id_of
from tasks.errors import StoreUnavailableError
from tasks.fleet import Fleet
from tasks.jobs import Priority, Status
from tasks.store import connect
from tasks.worker.lost import list_key

pytestmark = pytest.mark.faults

GPU0, GPU1 = f"gpu0@{HOST}", f"gpu1@{HOST}"
#: The promises: so soon can a job be claimed again.
AFTER_CHILD_SECONDS, AFTER_WORKER_SECONDS, AFTER_DRAIN_SECONDS = 5, 15, 10
MEMORY_MB = 300


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    settings = {
        "RMBG_TIME_LIMIT": "6",
        "RMBG_PROBE_SECONDS": "2",
        "RMBG_MAX_MEMORY_MB": str(MEMORY_MB),
    }
    with cluster(tmp_path_factory.mktemp("cluster"), **settings) as made:
        made.start_io()
        for index in (0, 1):
            made.start_worker(index, wait=False)
        yield made


@pytest.fixture
def made(shared: Cluster) -> Cluster:
    """Two model workers and one I/O worker, all well."""
    shared.heal()
    return shared


@pytest.fixture
def services(made: Cluster) -> Services:
    return made.services()


def _start_slow_job(made: Cluster, services: Services) -> tuple[str, dict[str, bytes], str]:
    """A job that runs for 2 s, its picture, and the member that it runs on."""
    data = picture(red=SLOW)
    task_id = submit(services, data)
    wait_for(
        lambda: job(services, task_id).status is Status.PROCESSING, 20, made, f"{task_id}'s run"
    )
    return task_id, {task_id: data}, str(job(services, task_id).worker).partition("@")[0]


def _await_claimable(made: Cluster, services: Services, task_id: str, seconds: float) -> None:
    """Until the job waits again, or was begun again."""

    def claimable() -> bool:
        found = job(services, task_id)
        return found.status is Status.QUEUED or found.attempts > 1

    wait_for(claimable, seconds, made, f"{task_id} claimable again")


def _signal_workers(made: Cluster, number: signal.Signals) -> None:
    for name in ("gpu0", "gpu1"):
        made.signal(name, number)


# -- workers -------------------------------------------------------------------------------------


def test_a_killed_child_costs_a_job_seconds(made: Cluster, services: Services) -> None:
    task_id, jobs, name = _start_slow_job(made, services)
    jobs |= submit_many(services, 10)
    made.kill_child(name)
    _await_claimable(made, services, task_id, AFTER_CHILD_SECONDS)
    done = wait_final(made, services, list(jobs), 40)
    # The fault is the one job's, and no loss, which would wait for the lease.
    assert [(each.crashes, each.losses) for each in done] == [(1, 0), *[(0, 0)] * 10]
    assert_exactly_once(made, services, jobs)


def test_a_killed_worker_costs_a_job_its_lease(made: Cluster, services: Services) -> None:
    task_id, jobs, name = _start_slow_job(made, services)
    jobs |= submit_many(services, 20)
    made.kill(name)
    # What was bound to it and not begun goes to others, though its message was in its hands.
    wait_for(
        lambda: all(job(services, each).status.final for each in jobs if each != task_id),
        AFTER_WORKER_SECONDS,
        made,
        "the jobs of a dead worker",
    )
    _await_claimable(made, services, task_id, AFTER_WORKER_SECONDS)
    done = wait_final(made, services, list(jobs), 40)
    assert [(each.crashes, each.losses) for each in done] == [(0, 1), *[(0, 0)] * 20]
    assert_exactly_once(made, services, jobs)


@pytest.mark.slow
def test_a_worker_that_slept_through_its_lease_cannot_write(
    made: Cluster, services: Services
) -> None:
    slept, jobs, name = _start_slow_job(made, services)
    jobs |= submit_many(services, 20)
    family = made.family(name)
    for each in family:
        each.suspend()
    wait_final(made, services, list(jobs), 60)
    for each in family:
        each.resume()
    more = submit_many(services, 6)
    wait_final(made, services, list(more), 40)
    assert job(services, slept).worker != f"{name}@{HOST}"
    assert_exactly_once(made, services, {**jobs, **more})


@pytest.mark.slow
def test_a_replacement_child_may_start_slowly(made: Cluster, services: Services) -> None:
    (made.folder / "slow-start").write_text("8")
    for name in ("gpu0", "gpu1"):
        made.kill_child(name)
    jobs = submit_many(services, 3)
    wait_final(made, services, list(jobs), 60)
    assert_exactly_once(made, services, jobs)


@pytest.mark.slow
def test_a_silent_child_is_replaced(made: Cluster, services: Services) -> None:
    children = {name: made.child(name) for name in ("gpu0", "gpu1")}
    for child in children.values():
        child.suspend()
    for name, child in children.items():
        # Its last answer counts for 16 s with these settings.
        wait_for(lambda: not child.is_running(), 40, made, f"the end of {name}'s silent child")  # noqa: B023 - called here
    jobs = submit_many(services, 4)
    done = wait_final(made, services, list(jobs), 60)
    assert sum(each.losses for each in done) == 0
    assert_exactly_once(made, services, jobs)
    assert {made.child(name).pid for name in children}.isdisjoint(
        child.pid for child in children.values()
    )


@pytest.mark.slow
def test_a_child_that_grew_too_large_is_replaced_after_its_job(
    made: Cluster, services: Services
) -> None:
    before = {f"{name}@{HOST}": made.child(name) for name in ("gpu0", "gpu1")}
    large = picture(red=GROW)
    grown = {submit(services, large): large}
    (done,) = wait_final(made, services, list(grown), 20)
    jobs = submit_many(services, 20)
    others = wait_final(made, services, list(jobs), 40)
    wait_for(lambda: not before[str(done.worker)].is_running(), 20, made, "the large child's end")
    assert {(each.attempts, each.crashes, each.losses) for each in [done, *others]} == {(1, 0, 0)}
    assert_exactly_once(made, services, {**grown, **jobs})


@pytest.mark.slow
def test_a_worker_whose_model_is_blind_takes_no_work(made: Cluster, services: Services) -> None:
    (made.folder / "blind").touch()
    name = made.start_worker(2, wait=False)
    blind = made.members.pop(name).process
    jobs = submit_many(services, 20)
    assert blind.wait(60) == 1
    assert "fails its start check" in (made.folder / f"{name}.log").read_text()
    done = wait_final(made, services, list(jobs), 40)
    assert {each.worker for each in done} <= {GPU0, GPU1}
    assert_exactly_once(made, services, jobs)


@pytest.mark.parametrize("good", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_a_poison_image_fails_alone(made: Cluster, services: Services, good: int) -> None:
    jobs = submit_many(services, 5)
    poison = submit(services, picture(red=KILL))
    jobs |= submit_many(services, good - 5, first=5)
    wait_final(made, services, [*jobs, poison], 90)
    assert_exactly_once(made, services, jobs)
    dead = job(services, poison)
    assert (dead.status, dead.crashes, dead.attempts) == (Status.FAILED, 3, 3)
    assert dead.error is not None
    assert dead.error.type == "poison"
    assert poison in services.store.dead()


@pytest.mark.slow
def test_a_hanging_model_call_is_killed_and_the_job_tried_again(
    made: Cluster, services: Services
) -> None:
    hanging = picture(red=HANG_ONCE)
    jobs = {submit(services, hanging): hanging, **submit_many(services, 5)}
    wait_final(made, services, list(jobs), 60)
    assert_exactly_once(made, services, jobs)
    assert job(services, next(iter(jobs))).crashes == 1


@pytest.mark.parametrize("count", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_sigterm_under_load_loses_nothing_and_runs_nothing_twice(
    made: Cluster, services: Services, count: int
) -> None:
    jobs = submit_many(services, count)
    await_processing(made, services)
    made.end("gpu0")
    made.restart("gpu0", wait=False)
    made.end("gpu1")
    wait_final(made, services, list(jobs), 90)
    assert_exactly_once(made, services, jobs)
    assert all(job(services, each).attempts == 1 for each in jobs)


def test_a_drained_worker_takes_nothing_and_its_backlog_moves(
    made: Cluster, services: Services
) -> None:
    fleet = Fleet(connect(made.redis_url))
    slow = [submit(services, picture(red=SLOW, number=number)) for number in range(4)]
    own = f"gpu.{HOST}.0"
    fleet.drain(GPU0, "for the test")

    def left_behind() -> list[str]:
        return [
            each for each in services.store.ids(Status.QUEUED) if job(services, each).queue == own
        ]

    wait_for(lambda: not left_behind(), AFTER_DRAIN_SECONDS, made, "gpu0's backlog elsewhere")
    jobs = submit_many(services, 10)
    done = wait_final(made, services, [*slow, *jobs], 60)
    assert [each for each in done[len(slow) :] if each.worker == GPU0] == []
    fleet.undrain(GPU0)
    wait_for(
        lambda: any(worker.name == GPU0 and worker.usable for worker in fleet.workers()),
        10,
        made,
        "gpu0's return",
    )


# -- messages ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_revoked_job_is_canceled_until_it_is_asked_for_again(
    made: Cluster, services: Services
) -> None:
    app = services.dispatcher._app
    # Enough to keep the last one waiting while the word goes round.
    jobs = submit_many(services, 60)
    last = list(jobs)[-1]
    app.control.revoke(last)
    wait_final(made, services, list(jobs), 40)
    assert job(services, last).status is Status.CANCELED
    assert services.store.requeue(last) == "requeued"
    wait_for(lambda: job(services, last).status is Status.SUCCEEDED, 30, made, "the requeued job")
    assert_exactly_once(made, services, jobs)


def test_a_stock_purge_is_undone(made: Cluster, services: Services) -> None:
    _signal_workers(made, signal.SIGSTOP)
    jobs = submit_many(services, 8)
    client = connect(made.redis_url)
    emptied = sum(client.delete(key) for key in client.scan_iter("model.*"))
    emptied += sum(client.delete(key) for key in client.scan_iter("gpu.*"))
    assert emptied
    _signal_workers(made, signal.SIGCONT)
    wait_final(made, services, list(jobs), 40)
    assert_exactly_once(made, services, jobs)


@pytest.mark.slow
def test_a_worker_that_dies_between_popping_a_message_and_noting_it_loses_nothing(
    made: Cluster, services: Services
) -> None:
    marker = made.folder / "stop-after-pop"
    marker.touch()
    jobs = submit_many(services, 6)
    wait_for(lambda: bool(made.stopped("gpu0", "gpu1")), 20, made, "a worker's stop")
    assert not marker.exists()
    client = connect(made.redis_url)
    lost = _in_no_list(services, list(jobs))
    held = " ".join(client.hvals("unacked"))
    assert [each for each in lost if each not in held]
    made.kill(made.stopped("gpu0", "gpu1")[0])
    wait_final(made, services, list(jobs), 60)
    assert_exactly_once(made, services, jobs)
    assert sum(job(services, each).sends for each in jobs) >= 1


def _in_no_list(services: Services, task_ids: list[str]) -> list[str]:
    """Queued jobs whose message no list of the broker holds."""
    client = services.store._client
    messages = [
        text for name in services.store.lists() for text in client.lrange(list_key(name), 0, -1)
    ]
    waiting = " ".join(messages)
    return [
        each
        for each in task_ids
        if each not in waiting and job(services, each).status is Status.QUEUED
    ]


@pytest.mark.slow
def test_a_message_lost_between_two_servers_is_sent_again(
    made: Cluster, services: Services
) -> None:
    _signal_workers(made, signal.SIGSTOP)
    jobs = submit_many(services, 6)
    client = connect(made.redis_url)
    popped = 0
    for task_id in jobs:
        record = job(services, task_id)
        popped += client.rpop(list_key(f"{record.queue}|{int(record.priority)}")) is not None
    assert popped
    _signal_workers(made, signal.SIGCONT)
    wait_final(made, services, list(jobs), 60)
    assert_exactly_once(made, services, jobs)


# -- servers -------------------------------------------------------------------------------------


def test_redis_killed_under_load_loses_nothing(made: Cluster, services: Services) -> None:
    jobs = submit_many(services, 40)
    await_processing(made, services)
    # The append-only file is written once a second.
    time.sleep(1.1)
    made.kill("valkey")
    made.restart("valkey")
    wait_final(made, services, list(jobs), 90)
    assert_exactly_once(made, services, jobs)


def test_cut_connections_lose_nothing_and_run_nothing_twice(
    made: Cluster, services: Services
) -> None:
    jobs = submit_many(services, 40)
    await_processing(made, services)
    client = connect(made.redis_url)
    for kind in ("normal", "pubsub"):
        client.client_kill_filter(_type=kind, skipme=True)
    wait_final(made, services, list(jobs), 90)
    assert_exactly_once(made, services, jobs)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seconds", [0, pytest.param(30, marks=pytest.mark.slow)])
def test_accepted_jobs_wait_for_a_store_that_is_away(
    made: Cluster, services: Services, seconds: float
) -> None:
    jobs = submit_many(services, 20 if seconds == 0 else 200)
    await_processing(made, services)
    made.kill("weed")
    end = time.monotonic() + seconds
    refused = 0
    while refused == 0 or time.monotonic() < end:
        began = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            submit(services, picture())
        # At once, for whoever waits; a hang would take the sockets' timeouts.
        assert time.monotonic() - began < 5
        refused += 1
        time.sleep(min(1, seconds))
    made.restart("weed")
    wait_final(made, services, list(jobs), 180)
    assert_exactly_once(made, services, jobs)


# -- priorities ----------------------------------------------------------------------------------


def test_an_urgent_job_passes_a_bulk_backlog(made: Cluster, services: Services) -> None:
    bulk = submit_many(services, 60, priority=Priority.LOW)
    await_processing(made, services)
    data = picture(number=99)
    urgent = submit(services, data, Priority.HIGH)
    wait_final(made, services, [urgent], 30)
    finished = job(services, urgent).finished_at
    assert finished is not None
    done = wait_final(made, services, list(bulk), 60)
    # Before it came, and with it, few could begin: it did not wait for the backlog.
    ahead = [each for each in done if each.finished_at and each.finished_at < finished]
    assert len(ahead) < 30
    assert_exactly_once(made, services, {urgent: data})


@pytest.mark.slow
def test_a_bulk_batch_is_not_starved(made: Cluster, services: Services) -> None:
    """Urgent jobs keep coming, faster than they are done; bulk work goes on all the same."""
    client = connect(made.redis_url)
    _signal_workers(made, signal.SIGSTOP)
    bulk = submit_many(services, 6, priority=Priority.LOW)
    # They have waited for longer than the longest wait on each step.
    for task_id in bulk:
        client.zadd(keys.index_key(Status.QUEUED), {task_id: time.time() - 3600}, xx=True)
    urgent = submit_many(services, 30, priority=Priority.HIGH)
    _signal_workers(made, signal.SIGCONT)

    def keep_coming() -> None:
        with suppress(StoreUnavailableError):
            if len(services.store.ids(Status.QUEUED)) < 30:
                urgent.update(submit_many(services, 5, first=len(urgent), priority=Priority.HIGH))

    wait_final(made, services, list(bulk), 60, meanwhile=keep_coming)
    assert any(not job(services, each).status.final for each in urgent)
    wait_final(made, services, list(urgent), 60)
    assert_exactly_once(made, services, {**bulk, **urgent})


def test_message_ids_name_their_job() -> None:
    assert job_id_of("rm-20261122-abc") == job_id_of("rm-20261122-abc.2") == "rm-20261122-abc"
