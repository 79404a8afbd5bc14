"""Counts what a job or a request costs by no clock."""

from collections import Counter
from collections.abc import Callable

import pytest
from redis import Redis
from redis.connection import AbstractConnection
from urllib3 import HTTPConnectionPool

REDIS, STORE, SYNCS = "round trips to Redis", "requests to the object store", "syncs of the disk"
_CLOCK = b"*1\r\n$4\r\nTIME\r\n"
#: What a new connection begins with, and one that was idle for a while.
_GREETINGS = {"HELLO", "CLIENT", "SELECT", "PING"}


def counted_calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count calls from now on; a pipeline is one round trip, and Redis's clock is for nothing."""
    counts = Counter[str]()

    def count(owner: type, method: str, name: str) -> None:
        real = getattr(owner, method)

        def counted(self: object, *args: object, **options: object) -> object:
            # A thread asks for the clock every few seconds, whatever the test does.
            if args[:1] != ([_CLOCK],):
                counts[name] += 1
            return real(self, *args, **options)

        monkeypatch.setattr(owner, method, counted)

    count(AbstractConnection, "send_packed_command", REDIS)
    count(HTTPConnectionPool, "urlopen", STORE)

    def synced(_folder: object) -> None:
        counts[SYNCS] += 1

    monkeypatch.setattr("tasks.object_store.sync_disk", synced)
    return counts


def commands_of(redis: Redis, step: Callable[[], object]) -> list[str]:
    """Return the names of the commands that a step sends to its database, also by scripts.

    The server's own count would not do: other tests use it meanwhile.
    """
    database, heard = redis.get_connection_kwargs()["db"], list[str]()
    with redis.monitor() as monitor:
        step()
        redis.echo("end of the step")
        for each in monitor.listen():
            if each["db"] == database:
                if each["command"] == "ECHO end of the step":
                    break
                heard.append(each["command"].split()[0])
    return [command for command in heard if command not in _GREETINGS]
