"""Counts what a job or a request costs by no clock."""

from collections import Counter

import pytest
from redis.connection import AbstractConnection
from urllib3 import HTTPConnectionPool

REDIS, STORE, SYNCS = "round trips to Redis", "requests to the object store", "syncs of the disk"


def counted_calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count calls from now on; a pipeline is one round trip."""
    counts = Counter[str]()

    def count(owner: type, method: str, name: str) -> None:
        real = getattr(owner, method)

        def counted(self: object, *args: object, **options: object) -> object:
            counts[name] += 1
            return real(self, *args, **options)

        monkeypatch.setattr(owner, method, counted)

    count(AbstractConnection, "send_packed_command", REDIS)
    count(HTTPConnectionPool, "urlopen", STORE)

    def synced(_folder: object) -> None:
        counts[SYNCS] += 1

    monkeypatch.setattr("tasks.object_store.sync_disk", synced)
    return counts
