"""Equal jobs, and the records of jobs, on a database that is empty when the test begins."""

import pytest
from redis import Redis

from tasks.jobs.store import JobStore
from tests.support.equal_jobs import EqualJobs
from tests.support.services import services_on


@pytest.fixture
def equal(server_settings: dict[str, object], objects: object) -> EqualJobs:  # noqa: ARG001 - makes the bucket
    return EqualJobs(services_on(server_settings))


@pytest.fixture
def store(redis: Redis) -> JobStore:
    return JobStore(redis)
