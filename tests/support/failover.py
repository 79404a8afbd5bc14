"""Two Valkeys, a primary with its replica, whose roles a test swaps; with a sentinel if wanted."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from deploy.local.ports import is_free, reserved_ports
from deploy.local.servers import valkey_service, valkey_url
from deploy.local.service import NotReadyError, Service, valkey_server
from tasks.redis_client import connect
from tests.support.listening import listening, pass_on
from tests.support.servers import running
from tests.support.service import eventually

_PASSWORD: Final = "p-of-both"


@dataclass
class ValkeyPair:
    """A primary and its replica.

    Attributes:
        clients: of the first, which is the primary at the beginning, and of the second.
        url: of an address that leads new connections to the primary, and leaves old ones alone.
        sentinel_url: of a sentinel that knows the primary.
    """

    clients: tuple[Redis, Redis]
    url: str
    sentinel_url: str
    _targets: list[int]

    def promote(self) -> None:
        """Make the second the primary and the first its replica, without losing a write."""
        first, second = self.clients
        first.execute_command("FAILOVER")
        self._await()
        self._targets.append(_port(second))

    def promote_by_sentinel(self) -> None:
        """Have the sentinel do that, once the replica has all writes."""
        first, second = self.clients
        eventually("a replica in step", lambda: first.wait(1, 1000))
        place = self.sentinel_url.rpartition("@")[2].partition("/")[0]
        with connect(f"redis://{place}") as sentinel:
            eventually("a failover", lambda: _begins(sentinel))
            self._await()
            named = ("127.0.0.1", _port(second))
            eventually(
                "its address",
                lambda: sentinel.sentinel_get_master_addr_by_name("mymaster") == named,
            )

    def _await(self) -> None:
        """Wait for both: until the first is a replica, it takes writes that nobody else gets."""
        first, second = self.clients
        eventually("the promotion", lambda: _fact(second, "role") == "master")
        # The sentinel takes ten seconds for that.
        first.replicaof("127.0.0.1", _port(second))
        eventually("the demotion", lambda: _fact(first, "role") == "slave")


def _begins(sentinel: Redis) -> bool:
    """Ask for a failover; the sentinel refuses until it has heard of the replica, and from it."""
    with contextlib.suppress(ResponseError):
        return bool(sentinel.execute_command("SENTINEL FAILOVER", "mymaster"))
    return False


def _fact(client: Redis, name: str) -> str:
    """Return what a server says of its replication; it drops its clients when its role changes."""
    with contextlib.suppress(RedisConnectionError):
        return str(client.info("replication").get(name))
    return ""


def _port(client: Redis) -> int:
    return int(client.connection_pool.connection_kwargs["port"])


@contextlib.contextmanager
def valkey_pair(folder: Path, *, sentinel: bool = False) -> Iterator[ValkeyPair]:
    """Run both, and the sentinel if it is asked for."""
    with contextlib.ExitStack() as stack:
        ports = stack.enter_context(reserved_ports())
        for number, port in enumerate(ports[:2]):
            service = valkey_service(folder / str(number), port, _PASSWORD)
            options = ("--masterauth", _PASSWORD, "--repl-diskless-sync-delay", "0")
            command = (*service.command, *options)
            stack.enter_context(
                running(replace(service, command=command), folder / f"valkey-{number}.log")
            )
        clients = tuple(stack.enter_context(connect(valkey_url(p, _PASSWORD))) for p in ports[:2])
        first, second = clients
        second.replicaof("127.0.0.1", ports[0])
        eventually(
            "the replica", lambda: second.info("replication").get("master_link_status") == "up"
        )
        if sentinel:
            stack.enter_context(_sentinel(folder / "sentinel", ports[2], ports[0]))
        targets = [ports[0]]
        port = stack.enter_context(listening(lambda client: pass_on(client, targets[-1])))
        yield ValkeyPair(
            (first, second),
            valkey_url(port, _PASSWORD),
            f"redis+sentinel://:{_PASSWORD}@127.0.0.1:{ports[2]}/mymaster/0",
            targets,
        )


@contextlib.contextmanager
def _sentinel(folder: Path, port: int, primary: int) -> Iterator[None]:
    folder.mkdir()
    (folder / "sentinel.conf").write_text(
        f"bind 127.0.0.1\nport {port}\nsentinel monitor mymaster 127.0.0.1 {primary} 1\n"
        f"sentinel auth-pass mymaster {_PASSWORD}\n"
        "sentinel failover-timeout mymaster 10000\n"
    )

    def probe(since: float) -> None:  # noqa: ARG001 - a probe's signature
        if is_free(port):
            raise NotReadyError("it does not listen yet")

    command = (valkey_server(), "sentinel.conf", "--sentinel")
    service = Service("sentinel", command, folder=folder, probe=probe)
    with running(service, folder / "sentinel.log"):
        yield
