"""The service while Redis refuses what takes memory: it waits, and goes on once there is room."""

import json
from http import HTTPStatus
from pathlib import Path

import psutil
import pytest
import urllib3

from deploy.client import ClientError
from deploy.local.service import always_ready
from tasks.jobs.job import Status
from tasks.redis_client import connect
from tests.support.receivers import answering, receiver
from tests.support.servers import embedded_valkey, running
from tests.support.service import HOST, RunningService, eventually, running_service, worker_service


def _why_not_ready(service: RunningService) -> str:
    """What the service says of its readiness; empty if it is ready."""
    answer = urllib3.request("GET", f"{service.url}/healthz/ready", retries=False)
    return "" if answer.status == HTTPStatus.OK else answer.data.decode()


@pytest.mark.slow
@pytest.mark.hostile
@pytest.mark.timeout(600)
def test_workers_outlast_a_full_redis_with_their_model(
    service_environment: dict[str, str], tmp_path: Path, coffee: Path
) -> None:
    """A job that runs ends meanwhile; its webhook is sent once there is room, once."""
    logs = tmp_path / "logs"
    logs.mkdir()
    with embedded_valkey(tmp_path / "valkey") as url, connect(url) as redis:
        env = service_environment | {"RMBG_REDIS_URL": url, "RMBG_TIME_LIMIT": "15"}
        with running_service(env, logs) as service, receiver(answering(200)) as got:
            parent = psutil.Process(service.model_worker_pid)
            children = {each.pid for each in parent.children()}
            with service.begun(coffee, webhook_url=got.url) as task_id:
                redis.config_set("maxmemory", 2**20)
            eventually("its end", lambda: service.job(task_id).status is Status.SUCCEEDED)
            assert "maxmemory" in _why_not_ready(service)
            with pytest.raises(ClientError, match="no room"):
                service.client.submit(coffee, {})
            # None of its model's answers counts any more, which takes 200 times what a probe costs.
            eventually("silence", lambda: not any(_states(service)), seconds=200)
            assert got.bodies == []
            second = worker_service(f"gpu1@{HOST}", f"gpu.{HOST}.1,model.u2netp", env, always_ready)
            with running(second, logs / "gpu1.log") as process:
                eventually(
                    "a loaded model", lambda: "worker.ready" in (logs / "gpu1.log").read_text()
                )
                redis.config_set("maxmemory", 0)
                eventually("both workers", lambda: _states(service) == [True, True])
                assert _why_not_ready(service) == ""
                assert process.poll() is None
                assert service.client.cut_out(coffee, {"cache": "false"})
                assert got.wait_for(1, 90)
                shown = f"/api/v1/tasks/{task_id}/deliveries"
                eventually(
                    "the delivery's end",
                    lambda: '"delivered"' in json.dumps(service.client.request("GET", shown)),
                )
            assert len(got.bodies) == 1
            assert {each.pid for each in parent.children()} == children


def _states(service: RunningService) -> list[bool]:
    return [each.usable for each in service.registry.workers()]
