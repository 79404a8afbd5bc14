"""Redis over TLS: each client of the service verifies the server before it sends the password."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flower.utils.broker import Broker
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from api.circuit_breaker import BreakerRedis, CircuitBreaker
from deploy.doctor import Level, check_redis
from deploy.local import probes
from deploy.local.service import NotReadyError
from tasks.app import create_celery
from tasks.errors import QueueUnavailableError
from tasks.redis_address import RedisAddress
from tasks.redis_client import connect, probe_redis
from tasks.settings import Settings
from tests.support.tls import TlsServer, tls_redis

REFUSALS = (RedisError, OperationalError, NotReadyError, QueueUnavailableError)


def _celery(url: str) -> None:
    with create_celery(Settings.load(redis_url=url)).connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0)
        connection.default_channel.client.ping()


def _flower(url: str) -> None:
    settings = create_celery(Settings.load(redis_url=url)).conf
    broker = Broker(settings.broker_url, broker_use_ssl=settings.broker_use_ssl)
    asyncio.run(broker.queues(["webhooks"]))


CLIENTS: dict[str, Callable[[str], object]] = {
    "service": lambda url: connect(url).ping(),
    "probe": lambda url: probe_redis(Settings.load(redis_url=url)),
    "api": lambda url: BreakerRedis.connect(url, CircuitBreaker()).ping(),
    "rmbg up": lambda url: probes.redis_answers(url)(0),
    "celery": _celery,
    "flower": _flower,
}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients try a connection that was refused again at once."""
    monkeypatch.setattr("redis.retry.sleep", lambda _: None)


@pytest.fixture
def impostor(redis_url: str, tmp_path: Path) -> Iterator[TlsServer]:
    with tls_redis(redis_url, tmp_path) as server:
        yield server


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_a_client_tells_an_impostor_nothing(
    client: Callable[[str], object], impostor: TlsServer, redis_url: str, tmp_path: Path
) -> None:
    """Who signed the certificate is checked, and for whom, unless the URL says otherwise."""
    with tls_redis(redis_url, tmp_path, "redis.example") as another:
        known = f"{another.url}?ssl_ca_certs={another.authority}"
        for url in (impostor.url, known):
            with pytest.raises(REFUSALS):
                client(url)
        assert not impostor.heard + another.heard
        for url, level in (
            (f"{impostor.url}?ssl_ca_certs={impostor.authority}", Level.OK),
            (f"{impostor.url}?ssl_cert_reqs=none", Level.WARN),
            (f"{known}&ssl_check_hostname=false", Level.WARN),
        ):
            client(url)
            assert _doctor(url) is level
        assert impostor.heard
        assert another.heard


def _doctor(url: str) -> Level:
    with connect(url) as client:
        results = check_redis(client, RedisAddress.parse(url))
        return next(each.level for each in results if each.subject == "redis.tls")


@pytest.mark.parametrize("client", [name for name in CLIENTS if name != "flower"])
def test_a_client_tells_an_impostor_of_a_sentinel_nothing(client: str, impostor: TlsServer) -> None:
    """A Redis stands for a sentinel here, and names no master; Flower asks by what Celery has."""
    place = impostor.url.rpartition("@")[2].partition("/")[0]
    url = f"rediss+sentinel://:secret@{place}/mymaster/0?sentinel_password=other"
    with pytest.raises(REFUSALS):
        CLIENTS[client](url)
    assert not impostor.heard
    with pytest.raises(REFUSALS):
        CLIENTS[client](f"{url}&ssl_ca_certs={impostor.authority}")
    assert impostor.heard
