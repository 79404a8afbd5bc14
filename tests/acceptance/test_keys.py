"""API keys on real processes: who is refused, and what is not served without one."""

import os
import subprocess
from pathlib import Path

import urllib3

from deploy.client import ServiceClient
from deploy.local.ports import reserved_ports
from tasks.api_keys import ApiKeys
from tasks.redis_client import connect
from tests.support.service import RunningApi, api_service


def test_an_open_address_without_keys_is_not_served(lone_api: RunningApi) -> None:
    with reserved_ports() as ports:
        command = [
            each.replace("127.0.0.1", "0.0.0.0")  # noqa: S104 - refused before it is bound
            for each in api_service(ports[0], {}).command
        ]
        done = subprocess.run(
            command,
            env={**os.environ, **lone_api.env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert "rmbg keys add" in done.stderr
    assert "RMBG_AUTH=off" in done.stderr
    assert "Listening" not in done.stderr


def test_on_loopback_the_first_key_closes_the_door(lone_api: RunningApi, coffee: Path) -> None:
    tasks = f"{lone_api.url}/api/v1/tasks"
    assert urllib3.request("GET", tasks).status == 200
    keys = ApiKeys(connect(lone_api.env["RMBG_REDIS_URL"]))
    _, key = keys.add("shop")
    try:
        assert urllib3.request("GET", tasks).status == 401
        assert urllib3.request("GET", tasks, headers={"X-API-Key": key}).status == 200
        # A refusal is heard though there is more to come.
        body = b"x" * 5_000_000
        assert urllib3.request("POST", f"{lone_api.url}/api/v1/remove-bg", body=body).status == 401
        with ServiceClient(lone_api.url, api_key=key) as client:
            assert client.submit(coffee, {})
    finally:
        keys.revoke("shop")
    log = lone_api.log.read_text()
    assert key not in log
    assert "X-Amz" not in log
