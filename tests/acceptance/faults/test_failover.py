"""The whole service, in real processes, through a change of the primary."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from deploy.client import ClientError, ServiceClient
from tests.support.failover import valkey_pair
from tests.support.servers import Servers
from tests.support.service import eventually, running_service

pytestmark = [pytest.mark.faults, pytest.mark.slow]


def _submit(client: ServiceClient, photo: Path, key: str) -> str | None:
    """Submit a picture; None if it was not accepted, or the answer was lost."""
    fields = {"image": (photo.name, photo.read_bytes()), "cache": "false"}
    with suppress(ClientError):
        headers = {"Idempotency-Key": key}
        answer = client.request("POST", "/api/v1/remove-bg", fields=fields, headers=headers)
        return str(answer["task_id"])
    return None


def _status(client: ServiceClient, task_id: str) -> str:
    """Return a task's status, or the error."""
    try:
        return str(client.request("GET", f"/api/v1/tasks/{task_id}")["status"])
    except ClientError as error:
        return str(error)


def _has_succeeded(client: ServiceClient, photo: Path, tasks: dict[str, str], key: str) -> bool:
    """Tell whether a picture is cut out; what the former primary kept to itself is sent again."""
    status = _status(client, tasks[key])
    if key.startswith("during") and "no such task" in status:
        tasks[key] = _submit(client, photo, key) or tasks[key]
    return status == "succeeded"


def test_jobs_of_before_during_and_after_a_promotion_end(
    servers: Servers, service_environment: dict[str, str], tmp_path: Path, coffee: Path
) -> None:
    (tmp_path / "logs").mkdir()
    env = {**service_environment, "RMBG_HOST": "failover"}
    env["RMBG_S3_BUCKET"] = f"{servers.bucket}-failover"
    with valkey_pair(tmp_path, sentinel=True) as pair:
        env["RMBG_REDIS_URL"] = pair.sentinel_url
        with running_service(env, tmp_path / "logs") as service, ThreadPoolExecutor(3) as threads:

            def submit(key: str) -> str:
                # A key whose request may have been recorded stays reserved for a while.
                return eventually(
                    "an answer", lambda: _submit(service.client, coffee, key) or "", seconds=180
                )

            before = [submit(f"before-{number}") for number in range(3)]
            during = [threads.submit(submit, f"during-{number}") for number in range(3)]
            pair.promote_by_sentinel()
            after = [submit(f"after-{number}") for number in range(3)]
            sent = [*before, *(each.result() for each in during), *after]
            keys = [
                f"{when}-{number}" for when in ("before", "during", "after") for number in range(3)
            ]
            tasks = dict(zip(keys, sent, strict=True))
            assert len(set(sent)) == 9
            eventually(
                "their ends",
                lambda: all(_has_succeeded(service.client, coffee, tasks, key) for key in keys),
                seconds=60,
            )
