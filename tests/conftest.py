"""Real servers for the tests: a Valkey and a SeaweedFS of this run's own, on free ports."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tasks.object_store import ObjectStore
from tasks.settings import Settings
from tests.support.paths import DATA
from tests.support.servers import S3Address, embedded_store, embedded_valkey

# The seed of a failing example is printed; shared machines are slow now and then.
settings.register_profile("tests", deadline=None, print_blob=True)
settings.load_profile("tests")

PHOTOS = DATA


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fault-seed", type=int, default=None, help="Seed of the random faults, to repeat a run."
    )


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own RMBG_* and HF_* variables must not change what is tested."""
    for name in [name for name in os.environ if name.startswith(("RMBG_", "HF_"))]:
        if name != "RMBG_MODEL_DIR":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with embedded_valkey(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Address]:
    with embedded_store(tmp_path_factory.mktemp("store")) as address:
        yield address


@pytest.fixture(scope="session")
def server_settings(redis_url: str, s3: S3Address) -> dict[str, object]:
    """What `Settings.load` needs to reach this run's servers."""
    return {
        "redis_url": redis_url,
        "s3_endpoint": s3.endpoint,
        "s3_public_endpoint": None,
        "s3_access_key": s3.access_key,
        "s3_secret_key": s3.secret_key,
        "host": "testhost",
        # What needs no key in these tests; those of the keys turn them on.
        "auth": "off",
    }


@pytest.fixture(scope="session")
def objects(server_settings: dict[str, object]) -> ObjectStore:
    store = ObjectStore.from_settings(Settings.load(**server_settings))
    store.ensure_bucket()
    return store


@pytest.fixture
def coffee() -> Path:
    return PHOTOS / "coffee.jpg"
