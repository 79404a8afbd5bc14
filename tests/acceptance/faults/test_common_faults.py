"""One fault of each kind: what `make test` runs of the fault tests, on one cluster."""

import json
import time

import pytest

from tasks.errors import ObjectStoreUnavailableError
from tasks.jobs.job import Status
from tasks.webhooks.deliveries import DeliveryState
from tests.support.cluster import HOST, WORKERS, Cluster, at, picture
from tests.support.faulty_worker import GATE, GATED, HANG_ONCE, KILL, SLOW, SLOW_ONCE
from tests.support.receivers import answering, holding, receiver

pytestmark = pytest.mark.faults

#: The promises: so soon can a job be claimed again, and is a drained worker's backlog elsewhere.
AFTER_CHILD_SECONDS, AFTER_WORKER_SECONDS, AFTER_DRAIN_SECONDS = 5, 15, 10


def _at_work(made: Cluster, waiting: int) -> tuple[str, str, dict[str, bytes]]:
    """A job that runs, by whom, and all jobs: it and those that wait behind it.

    The time limit counts while these are submitted. Where it ended the run, another is begun, with
    fewer behind it.
    """
    data = picture(red=SLOW_ONCE)
    while True:
        task_id, name = made.start_job(data)
        jobs = {task_id: data, **made.submit_many(waiting)}
        found = made.job(task_id)
        if (found.status, found.attempts) == (Status.PROCESSING, 1):
            return task_id, name, jobs
        made.wait_final(jobs, 60)
        made.heal()
        waiting = max(2, waiting // 2)


def _bound_to(made: Cluster, name: str) -> list[str]:
    """The jobs that wait for this worker and no other."""
    queue = f"gpu.{HOST}.{name.removeprefix('gpu')}"
    return [each for each in made.store.ids(Status.QUEUED) if made.job(each).queue == queue]


def test_a_killed_child_costs_a_job_seconds(made: Cluster) -> None:
    task_id, name, jobs = _at_work(made, 10)
    made.kill_child(name)
    made.await_claimable(task_id, AFTER_CHILD_SECONDS)
    done = made.succeed(jobs, 40)
    # The fault is the one job's, and no loss, which would wait for the lease.
    assert [(each.crashes, each.losses) for each in done] == [(1, 0)] + [(0, 0)] * (len(jobs) - 1)


def test_a_killed_worker_costs_a_job_its_lease(made: Cluster) -> None:
    task_id, name, jobs = _at_work(made, 20)
    made.kill(name)
    killed = time.monotonic()
    made.await_claimable(task_id, AFTER_WORKER_SECONDS)
    # What was bound to it and not begun goes to others, though its message was in its hands.
    made.wait_for(
        lambda: not _bound_to(made, name),
        killed + AFTER_WORKER_SECONDS - time.monotonic(),
        "the dead worker's jobs elsewhere",
    )
    done = made.succeed(jobs, 90)
    assert [(each.crashes, each.losses) for each in done] == [(0, 1)] + [(0, 0)] * (len(jobs) - 1)


def test_a_worker_that_slept_through_its_lease_cannot_write(made: Cluster) -> None:
    slept, name, jobs = _at_work(made, 20)
    with made.asleep(name):
        made.wait_final(jobs, 60)
    more = made.submit_many(6)
    made.succeed(more, 40)
    assert made.job(slept).worker != at(name)
    made.assert_exactly_once(jobs)


def test_a_poison_image_fails_alone(made: Cluster) -> None:
    jobs = made.submit_many(5)
    poison = made.submit(picture(red=KILL))
    jobs |= made.submit_many(5, first=5)
    made.wait_final([*jobs, poison], 90)
    made.assert_exactly_once(jobs)
    dead = made.job(poison)
    assert (dead.status, dead.crashes, dead.attempts) == (Status.FAILED, 3, 3)
    assert dead.error is not None
    assert dead.error.type == "poison"
    assert poison in made.store.dead()


def test_a_hanging_model_call_is_killed_and_the_job_tried_again(made: Cluster) -> None:
    data = picture(red=HANG_ONCE)
    hanging = made.submit(data)
    made.succeed({hanging: data, **made.submit_many(5)}, 60)
    assert made.job(hanging).crashes == 1


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_sigterm_under_load_loses_nothing_and_runs_nothing_twice(made: Cluster, count: int) -> None:
    jobs = made.submit_many(count)
    made.await_processing()
    made.end("gpu0")
    made.restart("gpu0", wait=False)
    made.end("gpu1")
    assert {each.attempts for each in made.succeed(jobs, 90)} == {1}


def test_a_drained_worker_takes_nothing_and_its_backlog_moves(made: Cluster) -> None:
    slow = [made.submit(picture(red=SLOW, number=number)) for number in range(4)]
    name = at("gpu0")
    made.registry.drain(name, "for the test")
    made.wait_for(
        lambda: not _bound_to(made, "gpu0"), AFTER_DRAIN_SECONDS, "gpu0's backlog elsewhere"
    )
    jobs = made.submit_many(10)
    done = made.wait_final([*slow, *jobs], 60)
    assert name not in {each.worker for each in done[len(slow) :]}
    made.registry.undrain(name)
    made.wait_for(lambda: made.usable("gpu0"), 10, "gpu0's return")


def test_redis_killed_under_load_loses_nothing(made: Cluster) -> None:
    jobs = made.submit_many(20)
    made.await_processing()
    made.kill("valkey")
    made.restart("valkey")
    made.succeed(jobs, 90)


def test_cut_connections_lose_nothing_and_run_nothing_twice(made: Cluster) -> None:
    jobs = made.submit_many(20)
    made.await_processing()
    for kind in ("normal", "pubsub"):
        made.redis.client_kill_filter(_type=kind, skipme=True)
    made.succeed(jobs, 90)


@pytest.mark.parametrize(
    ("seconds", "count"), [(0, 10), pytest.param(30, 200, marks=pytest.mark.slow)]
)
def test_accepted_jobs_wait_for_a_store_that_is_away(
    made: Cluster, seconds: float, count: int
) -> None:
    jobs = made.submit_many(count)
    made.await_processing()
    made.kill("weed")
    end = time.monotonic() + seconds
    refused = 0
    while refused == 0 or time.monotonic() < end:
        began = time.monotonic()
        with pytest.raises(ObjectStoreUnavailableError):
            made.submit(picture())
        # At once, for whoever waits; a hang would take the sockets' timeouts.
        assert time.monotonic() - began < 5
        refused += 1
        time.sleep(min(1, seconds))
    made.restart("weed")
    made.succeed(jobs, 180)


def test_a_revoked_job_is_canceled_until_it_is_asked_for_again(made: Cluster) -> None:
    (made.folder / GATE).touch()
    pictures = [picture(red=GATED, number=number) for number in range(6)]
    jobs = {made.submit(each): each for each in pictures}
    made.wait_for(
        lambda: len(made.store.ids(Status.PROCESSING)) == len(WORKERS), 20, "all workers at work"
    )
    jobs[last := made.submit(picture())] = picture()
    # No job ends before all workers, the I/O worker too, have heard of it.
    made.services.runtime.dispatcher.app.control.revoke(
        last, reply=True, timeout=20, limit=len(WORKERS) + 1
    )
    (made.folder / GATE).unlink()
    assert made.wait_final(jobs, 40)[-1].status is Status.CANCELED
    assert made.store.requeue(last) == "requeued"
    made.wait_for(lambda: made.job(last).status is Status.SUCCEEDED, 30, "the requeued job")
    made.assert_exactly_once(jobs)


def test_sigterm_does_not_wait_for_a_receiver_that_hangs(made: Cluster) -> None:
    with receiver(holding()) as got:
        task_id = made.submit(picture(), webhook_url=got.url)
        assert got.wait_for(1), made.logs()
        made.end("io0")
        got.let_go.set()
        assert "worker.end_forced" not in (made.folder / "io0.log").read_text()
        (row,) = made.services.runtime.deliveries.of(task_id)
        assert (row.state, row.attempts) == (DeliveryState.PENDING, 0), made.logs()
        made.restart("io0")
        made.wait_for(lambda: made.delivered(task_id), 30, "the attempt of another worker")
        assert set(made.verified(got)) == {task_id}
        assert len(set(got.ids)) == 1


def test_no_log_line_holds_a_secret_or_a_signed_address(made: Cluster) -> None:
    with receiver(answering(500, 200)) as got:
        task_id = made.submit(picture(), webhook_url=f"{got.url}?token=hush-hush")
        made.wait_for(lambda: made.delivered(task_id), 60, "the second attempt")
        assert "X-Amz-Signature" in json.loads(got.bodies[0])["data"]["result_url"]
    logs = "".join(path.read_text(errors="replace") for path in made.folder.glob("*.log"))
    assert "webhook.attempted" in logs
    secret = made.settings["RMBG_WEBHOOK_SECRET"]
    for hidden in (secret, secret.removeprefix("whsec_"), "hush-hush", "X-Amz-Signature"):
        assert hidden not in logs
