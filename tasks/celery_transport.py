"""Celery's Redis transport, whose connections close themselves when the server refuses.

Without that a worker goes on asking a server that has become a replica.
"""

from typing import Any, cast

from kombu.transport import redis as kombu_redis
from redis import Redis
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


class _OneClient:
    """Has a channel keep the client with which it sends commands; kombu makes one for each."""

    _kept: Redis | None = None

    def _create_client(self, asynchronous: bool = False) -> Redis:  # noqa: FBT001, FBT002 - kombu's signature
        if asynchronous:
            return cast("Redis", super()._create_client(asynchronous))  # type: ignore[misc] # a channel's
        # A channel that connects again has another pool.
        if self._kept is None or self._kept.connection_pool is not self.pool:  # type: ignore[attr-defined] # a channel's
            self._kept = super()._create_client()  # type: ignore[misc] # a channel's
        return cast("Redis", self._kept)


class Channel(_Refusals, _OneClient, kombu_redis.Channel):
    """A channel to one server."""

    connection_class = refusing(Connection)
    connection_class_ssl = refusing(SSLConnection)


class Transport(kombu_redis.Transport):
    """The transport of redis:// and rediss://."""

    Channel = Channel


class SentinelChannel(_Refusals, _OneClient, kombu_redis.SentinelChannel):
    """A channel to the master that sentinels name."""

    connection_class = refusing(SentinelManagedConnection)
    connection_class_ssl = refusing(kombu_redis.SentinelManagedSSLConnection)


class SentinelTransport(kombu_redis.SentinelTransport):
    """The transport of sentinel://."""

    Channel = SentinelChannel
