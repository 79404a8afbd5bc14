"""The live service against its own description, by `schemathesis` with every check."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.client import ServiceClient
from deploy.local.ports import reserved_ports
from tasks.api_keys import ApiKeys
from tasks.redis_client import connect
from tests.support.paths import DATA, ROOT
from tests.support.servers import running
from tests.support.service import RunningService, api_service

_RUN = "from schemathesis.cli import schemathesis; schemathesis()"
Examine = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def examine(
    service: RunningService, coffee_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Examine]:
    """Run `schemathesis` against an API process of its own, which asks for keys."""
    folder = tmp_path_factory.mktemp("schemathesis")
    _, key = ApiKeys(connect(service.env["RMBG_REDIS_URL"])).add(f"examined-{os.getpid()}")
    with reserved_ports() as ports:
        url = f"http://127.0.0.1:{ports[0]}"
        api = api_service(ports[0], {**service.env, "RMBG_AUTH": "on"})
        with running(api, folder / "api.log"), ServiceClient(url, api_key=key) as client:
            task_id = client.submit(coffee_path, {})
            assert client.wait(task_id)["status"] == "succeeded"
            environment = {
                **os.environ,
                "RMBG_TEST_KEY": key,
                "RMBG_TEST_TASK": task_id,
                "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks",
                "PYTHONPATH": str(ROOT),
            }

            def run(*options: str, seconds: float) -> subprocess.CompletedProcess[str]:
                return subprocess.run(
                    [
                        *(sys.executable, "-c", _RUN, "--no-color"),
                        *("--config-file", str(ROOT / "tests" / "support" / "schemathesis.toml")),
                        *("run", f"{url}/openapi.json", "--checks", "all", "--warnings", "off"),
                        *options,
                    ],
                    cwd=folder,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=seconds,
                    check=False,
                )

            yield run


@pytest.fixture(scope="module")
def coffee_path() -> Path:
    return DATA / "coffee.jpg"


@pytest.mark.timeout(400)
def test_nothing_that_is_asked_is_answered_against_the_description(examine: Examine) -> None:
    done = examine("--phases", "examples,coverage,fuzzing", "--max-examples", "3", seconds=350)
    # It prints its seed, and for each failure a command that repeats it.
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-4000:]
    assert " generated" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_nothing_that_is_asked_at_length_is_either(examine: Examine) -> None:
    done = examine(
        "--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "150", seconds=1400
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-4000:]
