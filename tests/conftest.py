"""One Valkey and one SeaweedFS for a run, and what a test gets of them."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from coverage import Coverage
from hypothesis import settings
from redis import Redis
from xdist.scheduler import LoadFileScheduling

from inference.models.base import MattingModel
from inference.models.load import load_model
from inference.models.registry import get_spec
from inference.models.weights import fetch_model
from tasks.object_store import ObjectStore
from tasks.redis_client import connect
from tasks.settings import Settings
from tests.support.paths import DATA
from tests.support.redis_content import without_expiry
from tests.support.servers import S3Address, Servers, embedded_servers
from tests.support.sharing import SERVICE, group_of, stack_of

# The seed of a failing example is printed; shared machines are slow now and then.
settings.register_profile("tests", deadline=None, print_blob=True)
settings.load_profile("tests")
_SERVERS = pytest.StashKey[Servers]()
#: Variables of CI and of terminals that color the output of commands, or wrap it elsewhere.
_OF_TERMINALS = {
    *("GITHUB_ACTIONS", "FORCE_COLOR", "NO_COLOR", "PY_COLORS", "TTY_COMPATIBLE"),
    *("TTY_INTERACTIVE", "TERMINAL_WIDTH", "COLUMNS", "LINES"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fault-seed", type=int, default=None, help="Seed of the random faults, to repeat a run."
    )
    parser.addoption(
        "--gpu", default="cpu", help="Device of the GPU faults: cuda:0, or cpu to play them."
    )
    parser.addoption("--regold", action="store_true", help="write golden pictures and logits again")


class _OneProcessOfTheService(LoadFileScheduling):
    """Runs a file's tests in one test process, and all files that share the service in one."""

    def _split_scope(self, nodeid: str) -> str:
        path = super()._split_scope(nodeid)
        return SERVICE if group_of(path) == SERVICE else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:  # noqa: ANN401 - xdist publishes no type
    # `loadgroup` would do, but xdist 3.8 does not group with pytest 9.2.
    return _OneProcessOfTheService(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the service, whose tests take longest."""
    items.sort(key=lambda item: _group(item) != SERVICE)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Save what was measured: pytest-xdist kills a test process that takes 10 s to end."""
    if (measured := Coverage.current()) is not None:
        measured.save()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End what the test's group shares if it is the group's last one: idle workers take time."""
    if nextitem is None or _group(nextitem) != _group(item):
        stack_of(item.config, _group(item)).close()


def _group(item: pytest.Item) -> str:
    return group_of(item.nodeid.partition("::")[0])


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # noqa: ANN401 - xdist publishes no type
    """Hand the servers to a test process of pytest-xdist; the first one has them started."""
    made = _servers_of_this_run(node.config)
    node.workerinput["servers"] = (
        made.valkey,
        made.s3.endpoint,
        made.s3.access_key,
        made.s3.secret_key,
    )


def _servers_of_this_run(config: pytest.Config) -> Servers:
    if _SERVERS not in config.stash:
        stack = ExitStack()
        config.add_cleanup(stack.close)
        # A process that dies is followed by one with a new number.
        processes = 2 * (config.getoption("numprocesses", None) or 1)
        config.stash[_SERVERS] = stack.enter_context(embedded_servers(processes))
    return config.stash[_SERVERS]


@pytest.fixture(scope="session", autouse=True)
def no_settings_of_this_machine() -> Iterator[None]:
    """A machine's own variables, such as RMBG_*, must not change what is tested.

    What a module or a run shares is made before what a single test has.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in [*os.environ]:
            own = name.startswith(("RMBG_", "HF_", "AWS_", "OTEL_")) or name in _OF_TERMINALS
            if own and name not in {"RMBG_MODEL_DIR", "RMBG_COMPILE_DIR"}:
                patch.delenv(name)
        patch.setenv("TERM", "xterm")
        # The tests' servers are on loopback, which a proxy does not reach.
        direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
        patch.setenv("no_proxy", ",".join(filter(None, (direct, "127.0.0.1", "localhost"))))
        yield


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop of tests that are coroutines."""
    return "asyncio"


@pytest.fixture(scope="session")
def servers(pytestconfig: pytest.Config) -> Servers:
    """The servers, with databases and a bucket for this test process."""
    given: dict[str, Any] | None = getattr(pytestconfig, "workerinput", None)
    if given is None:
        return _servers_of_this_run(pytestconfig)
    valkey, *store = given["servers"]
    return Servers(valkey, S3Address(*store), int(given["workerid"].removeprefix("gw")))


@pytest.fixture
def redis_url(servers: Servers) -> Iterator[str]:
    """URL of a database that is empty when the test begins; its keys expire as documented."""
    url = servers.redis_url()
    with connect(url) as client:
        client.flushdb()
        yield url
        assert without_expiry(client) == []


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """A client of the test's database."""
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def server_settings(
    servers: Servers,
    redis_url: str,
    objects: ObjectStore,  # noqa: ARG001 - makes the bucket
) -> dict[str, object]:
    """What `Settings.load` needs to reach the servers: the test's database, and a bucket."""
    return servers.settings(redis_url)


@pytest.fixture(scope="session")
def objects(servers: Servers) -> ObjectStore:
    """The bucket of this test process."""
    store = ObjectStore.from_settings(Settings.load(**servers.settings(servers.redis_url())))
    store.ensure_bucket()
    return store


@pytest.fixture(scope="session")
def u2netp_file() -> Path:
    """The real model's file, from the model folder; fetched when it is not there yet."""
    default = Path.home() / ".cache" / "rmbg-queue" / "models"
    return fetch_model(get_spec("u2netp"), Path(os.environ.get("RMBG_MODEL_DIR", default)))


@pytest.fixture(scope="session")
def u2netp(u2netp_file: Path) -> MattingModel:
    return load_model(get_spec("u2netp"), u2netp_file, device="cpu", threads=2)


@pytest.fixture
def coffee() -> Path:
    return DATA / "coffee.jpg"
