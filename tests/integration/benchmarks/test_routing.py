"""The simulation of routing, by the service's own code on a real Redis."""

from collections import Counter

from redis import Redis

from benchmarks.routing import Failure, Scenario, Simulation
from tasks.jobs.job import Status
from tasks.jobs.store import JobStore


def _run(redis: Redis, scenario: Scenario) -> Counter[int]:
    """Run a scenario, in which each job has to succeed once; jobs by GPU."""
    redis.flushdb()
    done = Simulation(redis, scenario).run()
    succeeded = JobStore(redis).ids(Status.SUCCEEDED)
    assert len(done) == len(succeeded) == len(scenario.arrivals)
    assert all(each.arrived <= each.started < each.ended for each in done)
    return Counter(each.gpu for each in done)


def test_a_fast_gpu_gets_more_jobs_and_a_failed_one_leaves_its_jobs_to_others(
    redis: Redis,
) -> None:
    even = Scenario((1.0, 1.0, 3.0), tuple(0.3 * number for number in range(12)))
    jobs = _run(redis, even)
    assert jobs[0] + jobs[1] > 2 * jobs[2]
    # The first GPU dies over its first job, and is back when all are done.
    failing = Scenario(even.seconds, even.arrivals, (Failure(0.5, 0, 60),))
    assert set(_run(redis, failing)) == {1, 2}
