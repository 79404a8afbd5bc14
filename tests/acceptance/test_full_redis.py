"""Workers while Redis refuses what takes memory: they wait, and go on once there is room."""

from dataclasses import replace
from pathlib import Path

import pytest

from deploy.local import probes
from tasks.jobs.job import Status
from tasks.jobs.store import JobStore, lease_token
from tasks.redis_client import connect
from tasks.settings import Settings
from tasks.webhooks.deliveries import DeliveryState, DeliveryStore
from tests.support.jobs import make_job
from tests.support.receivers import answering, receiver
from tests.support.servers import embedded_valkey, running
from tests.support.service import IO_POOL, eventually, worker_service


@pytest.mark.slow
@pytest.mark.hostile
def test_a_worker_goes_on_once_a_full_redis_has_room(
    service_environment: dict[str, str], tmp_path: Path
) -> None:
    """A job may end meanwhile; its webhook is sent once there is room, once."""
    log = tmp_path / "io.log"
    with embedded_valkey(tmp_path / "valkey") as url, connect(url) as redis:
        env = service_environment | {"RMBG_REDIS_URL": url}
        worker = worker_service(
            "io@full",
            "webhooks",
            env,
            probes.worker_online(Settings.load(redis_url=url), "io@full"),
            *IO_POOL,
        )
        jobs, deliveries = JobStore(redis), DeliveryStore(redis)
        with running(replace(worker, grace=30), log, seconds=60) as process:
            with receiver(answering(200)) as got:
                job = jobs.create(make_job(webhook_url=got.url)).job
                token = lease_token("gpu0@test", 1)
                jobs.claim(job.task_id, token=token, worker="gpu0@test")
                redis.config_set("maxmemory", 2**20)
                assert jobs.finish(job.task_id, token=token, status=Status.SUCCEEDED)
                eventually("a refusal", lambda: "maxmemory" in log.read_text())
                assert got.bodies == []
                redis.config_set("maxmemory", 0)
                assert got.wait_for(1, 90)
                eventually(
                    "the delivery's end",
                    lambda: deliveries.of(job.task_id)[0].state is DeliveryState.DELIVERED,
                )
                assert len(got.bodies) == 1
            assert process.poll() is None
