"""One fault at a time, on real processes."""

import signal
import time
from collections.abc import Iterator

import psutil
import pytest
from cluster import (
    HOST,
    Cluster,
    assert_exactly_once,
    cluster,
    job,
    picture,
    submit,
    wait_final,
    wait_for,
)
from faulty_worker import HANG_ONCE, KILL

from api.services import Services
from tasks.dispatch import job_id_of
from tasks.errors import StoreUnavailableError
from tasks.fleet import Fleet
from tasks.jobs import Status
from tasks.store import LEASE_SECONDS, connect
from tasks.worker.lost import list_key

pytestmark = pytest.mark.faults

GPU0, GPU1 = f"gpu0@{HOST}", f"gpu1@{HOST}"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster"), time_limit=6) as made:
        made.start_io()
        for index in (0, 1):
            made.start_worker(index, wait=False)
        yield made


@pytest.fixture
def made(shared: Cluster) -> Cluster:
    """Two model workers and one I/O worker, all well."""
    shared.heal()
    return shared


def _submit_many(services: Services, count: int) -> dict[str, bytes]:
    pictures = [picture(number=number) for number in range(count)]
    return {submit(services, each): each for each in pictures}


def _signal_workers(made: Cluster, number: signal.Signals) -> None:
    for name in ("gpu0", "gpu1"):
        made.signal(name, number)


def _await_processing(made: Cluster, services: Services) -> str:
    found: list[str] = []

    def any_runs() -> bool:
        found[:] = services.store.ids(Status.PROCESSING)
        return bool(found)

    wait_for(any_runs, 20, made, "a running job")
    return str(job(services, found[0]).worker)


def test_a_killed_child_costs_a_job_seconds(made: Cluster) -> None:
    services = made.services()
    jobs = _submit_many(services, 10)
    made.kill_child(_await_processing(made, services).partition("@")[0])
    done = wait_final(made, services, list(jobs), 40)
    # None, should the child have been between two jobs; never a loss, which waits for the lease.
    assert sum(each.crashes for each in done) <= 1
    assert sum(each.losses for each in done) == 0
    assert_exactly_once(made, services, jobs)


def test_a_killed_worker_costs_a_job_its_lease(made: Cluster) -> None:
    services = made.services()
    jobs = _submit_many(services, 20)
    name = _await_processing(made, services).partition("@")[0]
    made.kill(name)
    began = time.monotonic()
    wait_final(made, services, list(jobs), 40)
    assert_exactly_once(made, services, jobs)
    # Not a timing test: without the lease and the reconciler it takes an hour.
    assert time.monotonic() - began < LEASE_SECONDS + 20
    assert all(job(services, each).crashes == 0 for each in jobs)


def test_a_worker_that_slept_through_its_lease_cannot_write(made: Cluster) -> None:
    services = made.services()
    jobs = _submit_many(services, 20)
    name = _await_processing(made, services).partition("@")[0]
    parent = psutil.Process(made.members[name].process.pid)
    family = [parent, *parent.children(recursive=True)]
    for each in family:
        each.suspend()
    wait_final(made, services, list(jobs), 60)
    for each in family:
        each.resume()
    more = _submit_many(services, 6)
    wait_final(made, services, list(more), 40)
    assert_exactly_once(made, services, {**jobs, **more})


def test_a_revoked_job_is_canceled_until_it_is_asked_for_again(made: Cluster) -> None:
    services = made.services()
    app = services.dispatcher._app
    # Enough to keep the last one waiting while the word goes round.
    jobs = _submit_many(services, 60)
    last = list(jobs)[-1]
    app.control.revoke(last)
    wait_final(made, services, list(jobs), 40)
    assert job(services, last).status is Status.CANCELED
    assert services.store.requeue(last) == "requeued"
    wait_for(lambda: job(services, last).status is Status.SUCCEEDED, 30, made, "the requeued job")
    assert_exactly_once(made, services, jobs)


def test_a_stock_purge_is_undone(made: Cluster) -> None:
    services = made.services()
    _signal_workers(made, signal.SIGSTOP)
    jobs = _submit_many(services, 8)
    client = connect(made.redis_url)
    emptied = sum(client.delete(key) for key in client.scan_iter("model.*"))
    emptied += sum(client.delete(key) for key in client.scan_iter("gpu.*"))
    assert emptied
    _signal_workers(made, signal.SIGCONT)
    wait_final(made, services, list(jobs), 40)
    assert_exactly_once(made, services, jobs)


def test_a_message_lost_between_two_servers_is_sent_again(made: Cluster) -> None:
    """What a worker leaves that dies between popping a message and noting that it has it."""
    services = made.services()
    jobs = _submit_many(services, 3)
    wait_final(made, services, list(jobs), 20)
    _signal_workers(made, signal.SIGSTOP)
    more = _submit_many(services, 6)
    client = connect(made.redis_url)
    popped = 0
    for task_id in more:
        record = job(services, task_id)
        popped += client.rpop(list_key(f"{record.queue}|{int(record.priority)}")) is not None
    assert popped
    for name in ("gpu0", "gpu1"):
        made.kill(name)
        made.restart(name, wait=False)
    wait_final(made, services, list(more), 60)
    assert_exactly_once(made, services, {**jobs, **more})


def test_redis_killed_under_load_loses_nothing(made: Cluster) -> None:
    services = made.services()
    jobs = _submit_many(services, 40)
    _await_processing(made, services)
    # The append-only file is written once a second.
    time.sleep(1.1)
    made.kill("valkey")
    made.restart("valkey")
    wait_final(made, services, list(jobs), 90)
    assert_exactly_once(made, services, jobs)


def test_cut_connections_lose_nothing_and_run_nothing_twice(made: Cluster) -> None:
    services = made.services()
    jobs = _submit_many(services, 40)
    _await_processing(made, services)
    client = connect(made.redis_url)
    for kind in ("normal", "pubsub"):
        client.client_kill_filter(_type=kind, skipme=True)
    wait_final(made, services, list(jobs), 90)
    assert_exactly_once(made, services, jobs)


def test_accepted_jobs_wait_for_a_store_that_is_away(made: Cluster) -> None:
    services = made.services()
    jobs = _submit_many(services, 20)
    made.kill("weed")
    with pytest.raises(StoreUnavailableError):
        submit(services, picture())
    made.restart("weed")
    wait_final(made, services, list(jobs), 90)
    assert_exactly_once(made, services, jobs)


def test_a_replacement_child_may_start_slowly(made: Cluster) -> None:
    services = made.services()
    (made.folder / "slow-start").write_text("8")
    for name in ("gpu0", "gpu1"):
        made.kill_child(name)
    jobs = _submit_many(services, 3)
    wait_final(made, services, list(jobs), 60)
    assert_exactly_once(made, services, jobs)


def test_a_poison_image_fails_alone(made: Cluster) -> None:
    services = made.services()
    good = _submit_many(services, 5)
    poison = submit(services, picture(red=KILL))
    good |= _submit_many(services, 45)
    wait_final(made, services, [*good, poison], 90)
    assert_exactly_once(made, services, good)
    dead = job(services, poison)
    assert (dead.status, dead.crashes, dead.attempts) == (Status.FAILED, 3, 3)
    assert dead.error is not None
    assert dead.error.type == "poison"
    assert poison in services.store.dead()


def test_a_hanging_model_call_is_killed_and_the_job_tried_again(made: Cluster) -> None:
    services = made.services()
    hanging = picture(red=HANG_ONCE)
    jobs = {submit(services, hanging): hanging, **_submit_many(services, 5)}
    wait_final(made, services, list(jobs), 60)
    assert_exactly_once(made, services, jobs)
    assert job(services, next(iter(jobs))).crashes == 1


def test_sigterm_under_load_loses_nothing_and_runs_nothing_twice(made: Cluster) -> None:
    services = made.services()
    jobs = _submit_many(services, 60)
    _await_processing(made, services)
    made.end("gpu0")
    made.restart("gpu0", wait=False)
    made.end("gpu1")
    wait_final(made, services, list(jobs), 90)
    assert_exactly_once(made, services, jobs)
    assert all(job(services, each).attempts == 1 for each in jobs)


def test_a_drained_worker_takes_nothing_and_its_backlog_moves(made: Cluster) -> None:
    services = made.services()
    fleet = Fleet(connect(made.redis_url))
    fleet.drain(GPU0, "for the test")
    jobs = _submit_many(services, 20)
    done = wait_final(made, services, list(jobs), 60)
    late = [each for each in done[5:] if each.worker == GPU0]
    assert late == []
    fleet.undrain(GPU0)
    wait_for(
        lambda: any(worker.name == GPU0 and worker.usable for worker in fleet.workers()),
        10,
        made,
        "gpu0's return",
    )


def test_message_ids_name_their_job() -> None:
    assert job_id_of("rm-20261122-abc") == job_id_of("rm-20261122-abc.2") == "rm-20261122-abc"
