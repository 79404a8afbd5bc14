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


@pytest.fixture
def impostor(redis_url: str, tmp_path: Path) -> Iterator[TlsServer]:
    with tls_redis(redis_url, tmp_path) as server:
        yield server


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_a_client_tells_an_impostor_nothing(
    client: Callable[[str], object], impostor: TlsServer
) -> None:
    with pytest.raises(REFUSALS):
        client(impostor.url)
    assert not impostor.heard
    # Both of the certificate's parts are checked by default: who signed it, and for whom.
    client(f"{impostor.url}?ssl_ca_certs={impostor.authority}")
    assert impostor.heard
    # Whoever wants no check has to say so.
    client(f"{impostor.url}?ssl_cert_reqs=none")


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_a_certificate_for_another_host_is_refused(
    client: Callable[[str], object], redis_url: str, tmp_path: Path
) -> None:
    with tls_redis(redis_url, tmp_path, host="redis.example") as server:
        with pytest.raises(REFUSALS):
            client(f"{server.url}?ssl_ca_certs={server.authority}")
        assert not server.heard
        client(f"{server.url}?ssl_ca_certs={server.authority}&ssl_check_hostname=false")


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


@pytest.mark.parametrize(
    ("options", "warned"),
    [("?ssl_cert_reqs=none", True), ("?ssl_check_hostname=no&ssl_ca_certs={}", True), ("", False)],
)
def test_the_doctor_warns_of_a_server_that_is_not_verified(
    impostor: TlsServer, options: str, *, warned: bool
) -> None:
    options = (options or "?ssl_ca_certs={}").format(impostor.authority)
    url = f"{impostor.url}{options}"
    with connect(url) as client:
        found = [
            each.level
            for each in check_redis(client, RedisAddress.parse(url))
            if each.subject == "redis.tls"
        ]
    assert found == [Level.WARN if warned else Level.OK]
