"""A second service in a database of Redis: with a prefix, as a user that sees no other keys."""

import json
import sys
from pathlib import Path

import pytest

from deploy.local import probes
from deploy.local.ports import reserved_ports
from deploy.local.service import Service
from tasks.redis_client import connect
from tests.support.receivers import answering, receiver
from tests.support.redis_user import PREFIX, documented_user
from tests.support.servers import Servers, running
from tests.support.service import RunningService, eventually, running_service

_FLOWER = (sys.executable, "-m", "deploy.local.celery_flower", "-A", "tasks.app", "flower")


def _answering(service: RunningService) -> set[str]:
    """The workers that answer within the second that Celery waits for them."""
    told = service.run("celery", "-A", "tasks.app", "inspect", "ping", "--json").stdout
    return {*json.loads(told)} if told else set()


@pytest.mark.slow
def test_both_work_whole_and_neither_sees_the_other(
    service: RunningService, servers: Servers, tmp_path: Path, coffee: Path
) -> None:
    url = service.env["RMBG_REDIS_URL"]
    with (
        documented_user(url) as restricted,
        receiver(answering(200)) as got,
        reserved_ports() as ports,
    ):
        env = {
            **service.env,
            "RMBG_REDIS_URL": restricted,
            "RMBG_REDIS_PREFIX": PREFIX,
            "RMBG_S3_BUCKET": f"{servers.bucket}-tenant",
            "RMBG_HOST": "tenant",
        }
        with running_service(env, tmp_path) as tenant:
            for each in (tenant, service):
                task = each.client.submit(coffee, {"webhook_url": got.url})
                assert each.client.wait(task)["status"] == "succeeded"
            assert got.wait_for(2)
            told = tenant.run("rmbg", "doctor", "--json").stdout
            levels = {each["subject"]: each["level"] for each in json.loads(told)["findings"]}
            checks = ("rights", "info", "keys", "version")
            assert {levels.get(f"redis.{name}", "ok") for name in checks} == {"ok"}
            assert levels["workers.io"] == levels["workers"] == "ok"
            for each, host in ((tenant, "tenant"), (service, service.env["RMBG_HOST"])):
                own = {f"io@{host}", f"gpu0@{host}"}
                eventually(
                    f"the answers of {host}'s workers alone",
                    lambda each=each, own=own: _answering(each) == own,
                )
            listed = tenant.run("celery", "-A", "tasks.app", "jobs", "list", "--json").stdout
            assert len(json.loads(listed)["jobs"]) == 1
            # Flower hears of both workers.
            command = (*_FLOWER, f"--port={ports[0]}")
            address, workers = f"http://127.0.0.1:{ports[0]}", ("io@tenant", "gpu0@tenant")
            flower = Service("flower", command, env=env, probe=probes.flower_sees(address, workers))
            with running(flower, tmp_path / "flower.log"):
                pass
        with connect(url) as client:
            keys = {*client.scan_iter()}
        assert {f"{PREFIX}rmbg:jobs:succeeded", "rmbg:jobs:succeeded"} <= keys
