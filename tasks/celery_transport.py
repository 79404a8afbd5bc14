"""Celery's Redis transport, whose connections close themselves when the server refuses.

Without that a worker goes on asking a server that has become a replica.
"""

from typing import Any

from kombu.transport import redis as kombu_redis
from redis.connection import Connection, SSLConnection
from redis.sentinel import SentinelManagedConnection

from tasks.redis_address import refusal_retry, refusing


class _Refusals:
    """Has the connections of a channel try refused commands again, and nothing else.

    With kombu's own retries redis-py takes an error within a transaction for one of its watched
    keys, and repeats the transaction for as long as the server refuses.
    """

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002 - kombu's signature
        params: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[misc] # a channel's
        return {**params, "retry": refusal_retry()}


class Channel(_Refusals, kombu_redis.Channel):
    """A channel to one server."""

    connection_class = refusing(Connection)
    connection_class_ssl = refusing(SSLConnection)


class Transport(kombu_redis.Transport):
    """The transport of redis:// and rediss://."""

    Channel = Channel


class SentinelChannel(_Refusals, kombu_redis.SentinelChannel):
    """A channel to the master that sentinels name."""

    connection_class = refusing(SentinelManagedConnection)
    connection_class_ssl = refusing(kombu_redis.SentinelManagedSSLConnection)


class SentinelTransport(kombu_redis.SentinelTransport):
    """The transport of sentinel://."""

    Channel = SentinelChannel
