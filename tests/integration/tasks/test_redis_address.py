"""Redis behind sentinels, a socket or an address that moves: one URL for every client."""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from operator import attrgetter
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
from kombu import Connection
from werkzeug.test import TestResponse

from api.circuit_breaker import BreakerRedis, CircuitBreaker
from deploy.local import probes
from deploy.local.ports import reserved_ports
from deploy.local.servers import valkey_service
from tasks.app import create_celery
from tasks.redis_client import connect, probe_redis
from tasks.settings import Settings
from tests.support.api import Api
from tests.support.failover import ValkeyPair, valkey_pair
from tests.support.servers import Servers, running
from tests.support.service import eventually
from tests.support.services import services_on
from tests.support.submissions import task_id_of


@pytest.mark.usefixtures("objects")
@pytest.mark.parametrize(
    ("url_of", "promote"),
    [
        (attrgetter("url"), ValkeyPair.promote),
        (attrgetter("sentinel_url"), ValkeyPair.promote_by_sentinel),
    ],
    ids=["an address that moves", "a sentinel"],
)
def test_api_and_workers_follow_the_primary(
    url_of: Callable[[ValkeyPair], str],
    promote: Callable[[ValkeyPair], None],
    servers: Servers,
    tmp_path: Path,
) -> None:
    """Connections from before the change stay open to what is a replica then."""
    with valkey_pair(tmp_path, sentinel="sentinel" in promote.__name__) as pair:
        api = Api.on(services_on(servers.settings(url_of(pair))))
        settings = api.services.settings
        # What fewer threads than before do not use stays idle, connected to the former primary.
        before = _submit(api, 8)
        with create_celery(settings) as app, app.connection_for_read() as worker:
            message = _next_message(worker, before[0], api)
            # As a model worker, which takes the next message when it has done with this one.
            message.channel.basic_qos(0, 1, False)
            assert not message.channel.qos.can_consume()
            promote(pair)
            since = _submit(api, 8)
            assert {*pair.clients[1].zrange("rmbg:jobs:queued", 0, -1)} == {*before, *since}
            with suppress(*worker.recoverable_connection_errors):
                message.ack()
            assert message.channel.qos.can_consume()
            # As Celery does after such an error, which ends a repeated transaction too.
            worker.collect()
            _next_message(worker, since[0], api).ack()
        probe_redis(settings)


def _submit(api: Api, number: int) -> list[str]:
    """Submit pictures from several threads, each until it is accepted, as clients do.

    A server whose role changes drops its clients, so the answer of a write may be lost.
    """

    def submit(caller: Api) -> str:
        key = token_hex(8)

        def answer() -> TestResponse | None:
            given = caller.send(key=key)
            return None if given.status_code == HTTPStatus.SERVICE_UNAVAILABLE else given

        return task_id_of(eventually("an answer", answer, seconds=30))

    callers = [api.application.test_client() for _ in range(number)]
    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(submit, callers))


def _next_message(worker: Connection, task_id: str, api: Api) -> Any:  # noqa: ANN401 - kombu's
    queue = worker.SimpleQueue(api.job(task_id).queue)
    return queue.get(timeout=30)


def _has_ipv6() -> bool:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


@pytest.mark.parametrize("place", ["unix://:p@{socket}?db=3", "redis://:p@[::1]:{port}/3"])
def test_a_socket_and_a_database_mean_the_same_to_all_clients(tmp_path: Path, place: str) -> None:
    if "::1" in place and not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    with reserved_ports() as ports:
        service = valkey_service(tmp_path, ports[0], "p")
        # Valkey goes without an address that begins with "-" if the machine lacks it.
        more = ("--unixsocket", str(tmp_path / "r.sock"), "--bind", "127.0.0.1", "-::1")
        with running(replace(service, command=(*service.command, *more)), tmp_path / "log"):
            url = place.format(socket=tmp_path / "r.sock", port=ports[0])
            settings = Settings.load(redis_url=url)
            probe_redis(settings)
            probes.redis_answers(url)(0)
            with BreakerRedis.connect(url, CircuitBreaker()) as client:
                client.set("k", "v")
            with create_celery(settings) as app, app.connection_for_write() as connection:
                connection.SimpleQueue("q").put("m")
            with connect(f"redis://:p@127.0.0.1:{ports[0]}/3") as client:
                assert (client.get("k"), client.llen("q")) == ("v", 1)
