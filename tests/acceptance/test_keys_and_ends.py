"""Keys and erasure on real processes."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
from PIL import Image, ImageDraw

from deploy.client import ServiceClient
from deploy.local import probes
from deploy.local import service as local_service
from deploy.local.ports import reserved_ports
from tasks.api_keys import ApiKeys
from tasks.jobs.job import Status
from tasks.object_store import ObjectStore, original_key, results_prefix
from tasks.redis_client import connect
from tasks.settings import Settings
from tests.support.servers import Servers, running
from tests.support.service import RunningService, api_service


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Takes long enough that there is time to strike while it runs."""
    path = tmp_path / "large.jpg"
    picture = Image.effect_noise((4000, 3000), 80).convert("RGB")
    ImageDraw.Draw(picture).ellipse((1000, 500, 3000, 2500), fill="orange")
    picture.save(path, quality=85)
    return path


@pytest.fixture
def objects(service: RunningService) -> ObjectStore:
    env = service.env
    return ObjectStore.from_settings(
        Settings.load(
            s3_endpoint=env["RMBG_S3_ENDPOINT"],
            s3_access_key=env["RMBG_S3_ACCESS_KEY"],
            s3_secret_key=env["RMBG_S3_SECRET_KEY"],
            s3_bucket=env["RMBG_S3_BUCKET"],
        )
    )


def _begun(service: RunningService, photo: Path) -> str:
    task_id = service.client.submit(photo, {"cache": "false"})
    for _ in range(20_000):
        job = service.store.get(task_id)
        if job is not None and job.status is Status.PROCESSING:
            return task_id
    pytest.fail("no worker began it")


def _next_is_done(service: RunningService, coffee: Path) -> None:
    """The one model worker has ended whatever it was at: it takes one after the other."""
    service.client.cut_out(coffee, {"cache": "false"})


@pytest.mark.parametrize("method", ["cancel", "delete"])
def test_a_job_that_runs_is_ended_and_leaves_nothing_that_it_made(
    service: RunningService, objects: ObjectStore, large: Path, coffee: Path, method: str
) -> None:
    task_id = _begun(service, large)
    address = f"{service.url}/api/v1/tasks/{task_id}"
    if method == "delete":
        answer = urllib3.request("DELETE", address)
    else:
        answer = urllib3.request("POST", f"{address}/cancel")
    assert answer.status == 200, answer.data
    _next_is_done(service, coffee)
    assert list(objects.list(results_prefix(task_id))) == []
    job = service.store.get(task_id)
    if method == "delete":
        assert job is None
        assert list(objects.list(original_key(task_id))) == []
    else:
        assert job is not None
        assert (job.status, job.result_key) == (Status.CANCELED, None)


@pytest.fixture
def own_database(servers: Servers, service: RunningService) -> Iterator[dict[str, str]]:
    """The service's environment with a Redis database in which there are no keys."""
    url = servers.new_database()
    connect(url).flushdb()
    yield {**service.env, "RMBG_REDIS_URL": url, "RMBG_AUTH": "auto"}
    connect(url).flushdb()


def test_an_open_address_without_keys_is_not_served(own_database: dict[str, str]) -> None:
    with reserved_ports() as ports:
        address = f"0.0.0.0:{ports[0]}"  # refused before it is bound
        command = (
            local_service.script("gunicorn"),
            "-c",
            "python:api.gunicorn_conf",
            "-b",
            address,
        )
        done = subprocess.run(
            [*command, "api.app:create_app()"],
            env={**os.environ, **own_database},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert "rmbg keys add" in done.stderr
    assert "RMBG_AUTH=off" in done.stderr
    assert "Listening" not in done.stderr


def test_on_loopback_the_first_key_closes_the_door(
    own_database: dict[str, str], coffee: Path, tmp_path: Path
) -> None:
    with reserved_ports() as ports:
        url = f"http://127.0.0.1:{ports[0]}"
        tasks = f"{url}/api/v1/tasks"
        # Its readiness needs a worker, of which there is none in this database.
        api = api_service(ports[0], own_database)
        alive = type(api)(
            api.name, api.command, env=api.env, probe=probes.http_ok(f"{url}/healthz/live")
        )
        with running(alive, tmp_path / "api.log"):
            assert urllib3.request("GET", tasks).status == 200
            _, key = ApiKeys(connect(own_database["RMBG_REDIS_URL"])).add("shop")
            assert urllib3.request("GET", tasks).status == 401
            assert urllib3.request("GET", tasks, headers={"X-API-Key": key}).status == 200
            # A refusal is heard though there is more to come.
            body = b"x" * 5_000_000
            assert urllib3.request("POST", f"{url}/api/v1/remove-bg", body=body).status == 401
            with ServiceClient(url, api_key=key) as client:
                assert client.submit(coffee, {})
    log = (tmp_path / "api.log").read_text()
    assert key not in log
    assert "X-Amz" not in log
