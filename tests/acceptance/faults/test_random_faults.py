"""Random faults, one every few seconds, until all jobs are done: all of them must succeed."""

import random
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from api.services import Services
from tasks.jobs.job import Status
from tasks.jobs.store import LEASE_SECONDS
from tasks.redis_client import connect
from tests.support.cluster import Cluster, assert_exactly_once, cluster, submit_many, wait_for
from tests.support.fault_scenes import QUEUES, celery

pytestmark = pytest.mark.faults

WORKERS = ("gpu0", "gpu1")


@dataclass(frozen=True)
class Storm:
    """How bad it is.

    Attributes:
        jobs: how many have to succeed.
        pause: seconds from the end of one fault to the next.
        outage: seconds for which the store is away at a time.
        faults: at least so many; a share of the jobs is submitted before each of them.
    """

    jobs: int
    pause: float
    outage: float
    faults: int = 1


Fault = Callable[[Cluster, random.Random, Storm], None]


def kill_child(made: Cluster, chance: random.Random, _storm: Storm) -> None:
    made.kill_child(chance.choice(WORKERS))


def kill_worker(made: Cluster, chance: random.Random, _storm: Storm) -> None:
    name = chance.choice(WORKERS)
    made.kill(name)
    made.restart(name, wait=False)


def kill_io(made: Cluster, _chance: random.Random, _storm: Storm) -> None:
    made.kill("io0")
    made.restart("io0", wait=False)


def end_worker(made: Cluster, chance: random.Random, _storm: Storm) -> None:
    name = chance.choice(WORKERS)
    made.end(name)
    made.restart(name, wait=False)


def sleep_through_lease(made: Cluster, chance: random.Random, _storm: Storm) -> None:
    family = made.family(chance.choice(WORKERS))
    for each in family:
        each.suspend()
    threading.Event().wait(LEASE_SECONDS + 2)
    for each in family:
        each.resume()


def kill_after_pop(made: Cluster, _chance: random.Random, _storm: Storm) -> None:
    marker = made.folder / "stop-after-pop"
    marker.touch()
    deadline = time.monotonic() + 3
    while not made.stopped(*WORKERS) and time.monotonic() < deadline:
        time.sleep(0.05)
    marker.unlink(missing_ok=True)
    for name in made.stopped(*WORKERS):
        made.kill(name)
        made.restart(name, wait=False)


def cut_connections(made: Cluster, _chance: random.Random, _storm: Storm) -> None:
    client = connect(made.redis_url)
    for kind in ("normal", "pubsub"):
        client.client_kill_filter(_type=kind, skipme=True)


def restart_redis(made: Cluster, _chance: random.Random, _storm: Storm) -> None:
    # What was written in the last second may be gone with everysec: the promise is against a
    # crash of the process, whose writes the system has.
    made.kill("valkey")
    made.restart("valkey")


def take_store_away(made: Cluster, _chance: random.Random, storm: Storm) -> None:
    made.kill("weed")
    threading.Event().wait(storm.outage)
    made.restart("weed")


def stop_store(made: Cluster, _chance: random.Random, storm: Storm) -> None:
    """It takes connections and answers nothing."""
    made.signal("weed", signal.SIGSTOP)
    threading.Event().wait(storm.outage)
    made.signal("weed", signal.SIGCONT)


def stop_redis(made: Cluster, _chance: random.Random, storm: Storm) -> None:
    made.signal("valkey", signal.SIGSTOP)
    threading.Event().wait(storm.outage)
    made.signal("valkey", signal.SIGCONT)


def purge(made: Cluster, _chance: random.Random, _storm: Storm) -> None:
    celery(made, "purge", "-f", "-Q", QUEUES)


def revoke(made: Cluster, chance: random.Random, _storm: Storm) -> None:
    """As Flower does it; `_ask_again` has the job done all the same."""
    services = made.services()
    waiting = services.runtime.job_store.get_many(services.runtime.job_store.ids(Status.QUEUED))
    if waiting:
        found = chance.choice(waiting)
        message_id = (
            f"{found.task_id}.{found.redispatches + 1}" if found.redispatches else found.task_id
        )
        services.runtime.dispatcher.app.control.revoke(message_id)


def hang(made: Cluster, _chance: random.Random, _storm: Storm) -> None:
    (made.folder / "hang").touch()


def start_slowly(made: Cluster, chance: random.Random, _storm: Storm) -> None:
    """The next process of a worker takes longer than Celery would wait for it by itself."""
    marker = made.folder / "slow-start"
    marker.write_text("8")
    name = chance.choice(WORKERS)
    made.kill_child(name)
    threading.Event().wait(8)
    marker.unlink()


FAULTS: tuple[Fault, ...] = (
    kill_child,
    kill_worker,
    kill_io,
    end_worker,
    sleep_through_lease,
    kill_after_pop,
    cut_connections,
    restart_redis,
    take_store_away,
    stop_redis,
    stop_store,
    purge,
    revoke,
    hang,
    start_slowly,
)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path, RMBG_TIME_LIMIT="6") as made:
        made.start_io()
        for index in (0, 1):
            made.start_worker(index, wait=False)
        made.heal()
        yield made


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    given = request.config.getoption("--fault-seed")
    return secrets.randbelow(10**6) if given is None else int(given)


def every(pause: float, strike: Callable[[], None]) -> Callable[[], None]:
    """Something to be called again and again that strikes at most once in so many seconds."""
    due = time.monotonic() + pause

    def call() -> None:
        nonlocal due
        if time.monotonic() >= due:
            strike()
            due = time.monotonic() + pause

    return call


def _ask_again(services: Services) -> None:
    """What an operator does about jobs that a revocation canceled."""
    for task_id in services.runtime.job_store.ids(Status.CANCELED):
        services.runtime.job_store.requeue(task_id)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "storm",
    [
        pytest.param(Storm(40, 1, 3, faults=5), id="small"),
        pytest.param(Storm(150, 2, 5, faults=15), id="dense", marks=pytest.mark.slow),
        pytest.param(Storm(300, 8, 30, faults=10), id="full", marks=pytest.mark.slow),
    ],
)
def test_a_storm_of_faults_loses_nothing(made: Cluster, seed: int, storm: Storm) -> None:
    print(f"--fault-seed={seed}")  # noqa: T201 - shown with a failure
    chance = random.Random(seed)
    services = made.services()
    sent: dict[str, bytes] = {}
    struck: list[str] = []
    # Each kind once, in random order; then again.
    kinds: list[Fault] = []

    def one_more() -> bool:
        sent.update(submit_many(services, 1, first=len(sent)))
        return True

    def submit_share() -> None:
        for _ in range(storm.jobs // storm.faults):
            # A server that has just begun may refuse; nothing is accepted then.
            wait_for(one_more, 60, made, "a job's acceptance")

    def strike() -> None:
        if not kinds:
            kinds.extend(chance.sample(FAULTS, len(FAULTS)))
        fault = kinds.pop()
        struck.append(fault.__name__)
        print(f"{time.monotonic() - began:.0f} s: {fault.__name__}")  # noqa: T201 - the same
        fault(made, chance, storm)
        if len(struck) < storm.faults:
            submit_share()

    def done() -> bool:
        blow()
        _ask_again(services)
        enough = len(struck) >= storm.faults
        return enough and set(sent) <= set(services.runtime.job_store.ids(Status.SUCCEEDED))

    began = time.monotonic()
    submit_share()
    blow = every(storm.pause, strike)
    # All from this thread: Linux ties a child's life to the thread that started it.
    wait_for(done, 1100, made, f"the success of {storm.jobs} jobs")
    made.heal()
    assert len(sent) == storm.jobs
    assert_exactly_once(made, services, sent)
