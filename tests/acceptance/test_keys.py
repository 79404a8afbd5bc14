"""A service without API keys that others could reach does not start."""

import os
import subprocess

from deploy.local.ports import reserved_ports
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
