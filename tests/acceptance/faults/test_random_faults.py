"""Random faults, one every few seconds, until all jobs are done: all of them must succeed."""

import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster import Cluster, assert_exactly_once, cluster, submit_many, wait_final

from tasks.store import LEASE_SECONDS, connect

pytestmark = pytest.mark.faults

WORKERS = ("gpu0", "gpu1")
Fault = Callable[[Cluster, random.Random], None]


def kill_child(made: Cluster, chance: random.Random) -> None:
    made.kill_child(chance.choice(WORKERS))


def kill_worker(made: Cluster, chance: random.Random) -> None:
    name = chance.choice(WORKERS)
    made.kill(name)
    made.restart(name, wait=False)


def kill_io(made: Cluster, _chance: random.Random) -> None:
    made.kill("io0")
    made.restart("io0", wait=False)


def end_worker(made: Cluster, chance: random.Random) -> None:
    name = chance.choice(WORKERS)
    made.end(name)
    made.restart(name, wait=False)


def sleep_through_lease(made: Cluster, chance: random.Random) -> None:
    family = made.family(chance.choice(WORKERS))
    for each in family:
        each.suspend()
    threading.Event().wait(LEASE_SECONDS + 2)
    for each in family:
        each.resume()


def kill_after_pop(made: Cluster, _chance: random.Random) -> None:
    marker = made.folder / "stop-after-pop"
    marker.touch()
    deadline = time.monotonic() + 3
    while not made.stopped(*WORKERS) and time.monotonic() < deadline:
        time.sleep(0.05)
    marker.unlink(missing_ok=True)
    for name in made.stopped(*WORKERS):
        made.kill(name)
        made.restart(name, wait=False)


def cut_connections(made: Cluster, _chance: random.Random) -> None:
    client = connect(made.redis_url)
    for kind in ("normal", "pubsub"):
        client.client_kill_filter(_type=kind, skipme=True)


def restart_redis(made: Cluster, _chance: random.Random) -> None:
    # What was written in the last second may be gone with everysec: the promise is against a
    # crash of the process, whose writes the system has.
    made.kill("valkey")
    made.restart("valkey")


def restart_store(made: Cluster, _chance: random.Random) -> None:
    made.kill("weed")
    made.restart("weed")


def purge(made: Cluster, _chance: random.Random) -> None:
    client = connect(made.redis_url)
    for pattern in ("model.*", "gpu.*"):
        for key in client.scan_iter(pattern):
            client.delete(key)


FAULTS: tuple[Fault, ...] = (
    kill_child,
    kill_worker,
    kill_io,
    end_worker,
    sleep_through_lease,
    kill_after_pop,
    cut_connections,
    restart_redis,
    restart_store,
    purge,
)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path) as made:
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


def _storm(made: Cluster, seed: int, *, jobs: int, pause: float, seconds: float) -> None:
    print(f"--fault-seed={seed}")  # noqa: T201 - shown with a failure
    chance = random.Random(seed)
    services = made.services()
    sent = submit_many(services, jobs)
    told: list[str] = []

    def strike() -> None:
        fault = chance.choice(FAULTS)
        told.append(fault.__name__)
        fault(made, chance)

    # All from this thread: Linux ties a child's life to the thread that started it.
    wait_final(made, services, list(sent), seconds, meanwhile=every(pause, strike))
    print("faults:", *told)  # noqa: T201 - the same
    made.heal()
    assert_exactly_once(made, services, sent)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_small_storm_of_faults_loses_nothing(made: Cluster, seed: int) -> None:
    _storm(made, seed, jobs=100, pause=2, seconds=180)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_storm_of_faults_loses_nothing(made: Cluster, seed: int) -> None:
    _storm(made, seed, jobs=300, pause=8, seconds=900)
