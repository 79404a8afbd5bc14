"""The whole service over a Redis and an object store that are reached by TLS only."""

import json
from pathlib import Path

import pytest

from tests.support.servers import Servers
from tests.support.service import running_service
from tests.support.tls import tls_redis, tls_store


@pytest.mark.slow
def test_the_service_and_its_commands_work_over_tls(
    servers: Servers, service_environment: dict[str, str], tmp_path: Path, coffee: Path
) -> None:
    redis_folder, store_folder = tmp_path / "redis", tmp_path / "store"
    redis_folder.mkdir()
    store_folder.mkdir()
    with (
        tls_redis(servers.new_database(), redis_folder) as redis,
        tls_store(servers.s3.endpoint, store_folder) as store,
    ):
        env = {
            **service_environment,
            "RMBG_REDIS_URL": f"{redis.url}?ssl_ca_certs={redis.authority}",
            "RMBG_S3_ENDPOINT": store.url,
            "RMBG_S3_CA_FILE": str(store.authority),
            "RMBG_S3_REGION": "eu-central-1",
            "RMBG_HOST": "tls",
        }
        with running_service(env, tmp_path) as service:
            task = service.client.wait(service.client.submit(coffee, {}))
            assert task["status"] == "succeeded"
            assert task["result_url"].startswith(store.url)
            # Not within the second that Celery waits by itself; the one that is asked answers.
            ping = ("inspect", "--timeout", "30", "--destination", "gpu0@tls", "ping")
            for command in (("jobs", "list"), ping):
                done = service.run("celery", "-A", "tasks.app", *command)
                assert done.returncode == 0, done.stderr
            told = service.run("rmbg", "doctor", "--json").stdout
            assert "redis.tls" in told
            levels = {each["subject"]: each["level"] for each in json.loads(told)["findings"]}
            assert {levels[f"store.{name}"] for name in ("bucket", "signed", "clock")} == {"ok"}
            assert "insecure" not in service.logged()
