"""Random faults, one every few seconds, until all jobs are done: all of them must succeed."""

import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tasks.jobs.job import Status
from tasks.jobs.store import LEASE_SECONDS
from tests.support.cluster import QUEUES, WORKERS, Cluster

pytestmark = [pytest.mark.faults, pytest.mark.slow]


@dataclass
class Storm:
    """How bad it is, and what happened so far.

    Attributes:
        jobs: how many have to succeed.
        pause: seconds from the end of one fault to the next.
        outage: seconds for which a server is away at a time.
        faults: at least so many; a share of the jobs is submitted before each of them.
    """

    made: Cluster
    chance: random.Random
    jobs: int
    pause: float
    outage: float
    faults: int
    sent: dict[str, bytes] = field(default_factory=dict)
    struck: int = 0

    def a_worker(self) -> str:
        return self.chance.choice(WORKERS)

    def submit_share(self) -> None:
        goal = len(self.sent) + self.jobs // self.faults

        def all_submitted() -> bool:
            while len(self.sent) < goal:
                self.sent.update(self.made.submit_many(1, first=len(self.sent)))
            return True

        # A server that has just begun may refuse; nothing is accepted then.
        self.made.wait_for(all_submitted, 120, "the jobs' acceptance")

    def ask_again(self) -> None:
        """What an operator does about jobs that a revocation canceled."""
        for task_id in {*self.made.store.ids(Status.CANCELED)} & {*self.sent}:
            self.made.store.requeue(task_id)

    def survived(self) -> bool:
        succeeded = set(self.made.store.ids(Status.SUCCEEDED))
        return self.struck >= self.faults and set(self.sent) <= succeeded


Fault = Callable[[Cluster, Storm], None]


def kill_child(made: Cluster, storm: Storm) -> None:
    made.kill_child(storm.a_worker())


def kill_worker(made: Cluster, storm: Storm) -> None:
    name = storm.a_worker()
    made.kill(name)
    made.restart(name, wait=False)


def kill_io(made: Cluster, _storm: Storm) -> None:
    made.kill("io0")
    made.restart("io0", wait=False)


def end_worker(made: Cluster, storm: Storm) -> None:
    name = storm.a_worker()
    made.end(name)
    made.restart(name, wait=False)


def sleep_through_lease(made: Cluster, storm: Storm) -> None:
    with made.asleep(storm.a_worker()):
        time.sleep(LEASE_SECONDS + 2)


def kill_after_pop(made: Cluster, _storm: Storm) -> None:
    marker = made.folder / "stop-after-pop"
    marker.touch()
    deadline = time.monotonic() + 3
    while not made.stopped() and time.monotonic() < deadline:
        time.sleep(0.05)
    marker.unlink(missing_ok=True)
    for name in made.stopped():
        made.kill(name)
        made.restart(name, wait=False)


def cut_connections(made: Cluster, _storm: Storm) -> None:
    for kind in ("normal", "pubsub"):
        made.redis.client_kill_filter(_type=kind, skipme=True)


def restart_redis(made: Cluster, _storm: Storm) -> None:
    # What was written in the last second may be gone with everysec: the promise is against a
    # crash of the process, whose writes the system has.
    made.kill("valkey")
    made.restart("valkey")


def take_store_away(made: Cluster, storm: Storm) -> None:
    made.kill("weed")
    time.sleep(storm.outage)
    made.restart("weed")


def stop_store(made: Cluster, storm: Storm) -> None:
    with made.standing("weed"):
        time.sleep(storm.outage)


def stop_redis(made: Cluster, storm: Storm) -> None:
    with made.standing("valkey"):
        time.sleep(storm.outage)


def purge(made: Cluster, _storm: Storm) -> None:
    made.celery("purge", "-f", "-Q", QUEUES)


def revoke(made: Cluster, storm: Storm) -> None:
    """As Flower does it; `ask_again` has the job done all the same."""
    waiting = made.store.get_many(made.store.ids(Status.QUEUED))
    if waiting:
        found = storm.chance.choice(waiting)
        dispatch = f".{found.redispatches + 1}" if found.redispatches else ""
        made.services.runtime.dispatcher.app.control.revoke(f"{found.task_id}{dispatch}")


def hang(made: Cluster, _storm: Storm) -> None:
    (made.folder / "hang").touch()


def start_slowly(made: Cluster, storm: Storm) -> None:
    """The next process of a worker takes longer than Celery would wait for it by itself."""
    marker = made.folder / "slow-start"
    marker.write_text("8")
    made.kill_child(storm.a_worker())
    time.sleep(8)
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


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "weather",
    [
        pytest.param({"jobs": 150, "pause": 2, "outage": 5, "faults": 15}, id="dense"),
        pytest.param({"jobs": 300, "pause": 8, "outage": 30, "faults": 10}, id="full"),
    ],
)
def test_a_storm_of_faults_loses_nothing(
    made: Cluster, pytestconfig: pytest.Config, weather: dict[str, int]
) -> None:
    given = pytestconfig.getoption("--fault-seed")
    seed = secrets.randbelow(10**6) if given is None else int(given)
    print(f"--fault-seed={seed}")  # noqa: T201 - shown with a failure
    storm = Storm(made, random.Random(seed), **weather)
    # Each kind once, in random order; then again.
    kinds: list[Fault] = []
    began = due = time.monotonic()

    def strike() -> None:
        nonlocal due
        if time.monotonic() < due:
            return
        kinds.extend(() if kinds else storm.chance.sample(FAULTS, len(FAULTS)))
        fault = kinds.pop()
        storm.struck += 1
        print(f"{time.monotonic() - began:.0f} s: {fault.__name__}")  # noqa: T201 - the same
        fault(made, storm)
        if storm.struck < storm.faults:
            storm.submit_share()
        due = time.monotonic() + storm.pause

    def survived() -> bool:
        strike()
        storm.ask_again()
        return storm.survived()

    storm.submit_share()
    due = time.monotonic() + storm.pause
    # All from this thread: Linux ties a child's life to the thread that started it.
    made.wait_for(survived, 1100, f"the success of {storm.jobs} jobs")
    made.heal()
    assert len(storm.sent) == storm.jobs
    made.assert_exactly_once(storm.sent)
