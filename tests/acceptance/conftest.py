"""The running service, and what its tests share."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
from PIL import Image

from inference.models.registry import get_spec
from inference.models.weights import fetch_model
from tasks.api_keys import new_webhook_secret
from tasks.settings import Settings
from tests.support.paths import DATA
from tests.support.servers import Servers
from tests.support.service import HOST, RunningApi, RunningService, running_api, running_service
from tests.support.sharing import SERVICE, stack_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def service_environment(servers: Servers) -> dict[str, str]:
    settings = Settings.load()
    fetch_model(get_spec("u2netp"), settings.model_dir)
    return {
        "RMBG_REDIS_URL": servers.new_database(),
        **servers.s3.environment,
        "RMBG_S3_BUCKET": f"{servers.bucket}-acceptance",
        "RMBG_MODEL": "u2netp",
        "RMBG_MODEL_DIR": str(settings.model_dir),
        "RMBG_HOST": HOST,
        "RMBG_THREADS": "2",
        "RMBG_API_WORKERS": "1",
        "RMBG_WEBHOOK_SECRET": new_webhook_secret(),
        "RMBG_URL_ALLOW": "127.0.0.1",
        # Commands of the docs carry no key. Tests of keys have an API in their own process.
        "RMBG_AUTH": "off",
    }


@pytest.fixture(scope="session")
def service(
    pytestconfig: pytest.Config,
    service_environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> RunningService:
    """One service for all tests: each looks at tasks and counts of its own."""
    env = {**service_environment, "RMBG_API_WORKERS": "2"}
    running = running_service(env, tmp_path_factory.mktemp("logs"))
    return stack_of(pytestconfig, SERVICE).enter_context(running)


class StartApi(Protocol):
    def __call__(self, name: str, **settings: str) -> RunningApi: ...


@pytest.fixture(scope="session")
def start_api(
    pytestconfig: pytest.Config,
    servers: Servers,
    service_environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> StartApi:
    """Start an API of one process without workers, so that nothing of what it takes in is begun."""

    def start(name: str, **settings: str) -> RunningApi:
        own = {
            "RMBG_REDIS_URL": servers.new_database(),
            "RMBG_S3_BUCKET": f"{servers.bucket}-{name}",
        }
        env = service_environment | own | settings
        api = running_api(env, tmp_path_factory.mktemp(name) / "api.log")
        return stack_of(pytestconfig, SERVICE).enter_context(api)

    return start


@pytest.fixture(scope="session")
def lone_api(start_api: StartApi) -> RunningApi:
    """An API that asks for keys once there is one."""
    return start_api(
        "lone",
        RMBG_MAX_IMAGE_MB="256",
        RMBG_AUTH="auto",
        RMBG_GRAFANA_URL="https://grafana.example/d/rmbg",
    )


@pytest.fixture(scope="session")
def keyed_api(start_api: StartApi) -> RunningApi:
    """An API that asks everybody for a key."""
    return start_api("keyed", RMBG_AUTH="on")


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    # Here, since a machine with a GPU may have no browser, and runs the tests of its faults.
    from tests.support.browser import chromium  # noqa: PLC0415 - see above

    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    return sorted(DATA.glob("*.jpg"))


@pytest.fixture
def garbled(tmp_path: Path) -> Path:
    """A PNG whose compressed pixels are damaged, and whose header and end are whole."""
    path = tmp_path / "garbled.png"
    Image.new("RGB", (300, 200), "red").save(path)
    whole = path.read_bytes()
    start = whole.index(b"IDAT") + 8
    path.write_bytes(whole[:start] + bytes(20) + whole[start + 20 :])
    return path
