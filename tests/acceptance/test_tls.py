"""The whole service over a Redis that is reached by TLS only."""

from pathlib import Path

import pytest

from tests.support.servers import Servers
from tests.support.service import running_service
from tests.support.tls import tls_redis


@pytest.mark.slow
def test_the_service_and_its_commands_work_over_tls(
    servers: Servers, service_environment: dict[str, str], tmp_path: Path, coffee: Path
) -> None:
    with tls_redis(servers.new_database(), tmp_path) as redis:
        url = f"{redis.url}?ssl_ca_certs={redis.authority}"
        env = {**service_environment, "RMBG_REDIS_URL": url, "RMBG_HOST": "tls"}
        with running_service(env, tmp_path) as service:
            task = service.client.wait(service.client.submit(coffee, {}))
            assert task["status"] == "succeeded"
            for command in (("jobs", "list"), ("inspect", "ping")):
                done = service.run("celery", "-A", "tasks.app", *command)
                assert done.returncode == 0, done.stderr
            assert "redis.tls" in service.run("rmbg", "doctor").stdout
            assert "insecure" not in service.logged()
