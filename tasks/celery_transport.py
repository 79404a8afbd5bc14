"""Celery's Redis transport, as the service needs it.

Its connections close themselves when the server refuses: otherwise a worker goes on asking a server
that has become a replica. A full server counts as one that is away, since Celery ends a worker for
any other error. With a prefix (`RMBG_REDIS_PREFIX`), all keys get it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from redis import Redis
from redis.connection import Connection, SSLConnection
from redis.sentinel import SentinelManagedConnection

from tasks.redis_address import refusal_retry, refusing


class _PrefixedKeys(kombu_redis.GlobalKeyPrefixMixin):
    """Puts the prefix before the keys of EXISTS too, which kombu leaves out."""

    PREFIXED_COMPLEX_COMMANDS: dict[str, object] = {  # noqa: RUF012 - kombu's type
        **kombu_redis.GlobalKeyPrefixMixin.PREFIXED_COMPLEX_COMMANDS,
        "EXISTS": {"args_start": 0, "args_end": None},
    }


class _PrefixedPipeline(_PrefixedKeys, kombu_redis.PrefixedRedisPipeline):
    """A pipeline of such a client."""


class _PrefixedClient(_PrefixedKeys, kombu_redis.PrefixedStrictRedis):
    """A client that puts the prefix before keys."""

    def pipeline(
        self,
        transaction: bool = True,  # noqa: FBT001, FBT002 - redis's signature
        shard_hint: str | None = None,
    ) -> _PrefixedPipeline:
        """Make a pipeline."""
        return _PrefixedPipeline(  # type: ignore[no-untyped-call] # kombu leaves it so
            self.connection_pool,
            self.response_callbacks,
            transaction,
            shard_hint,
            global_keyprefix=self.global_keyprefix,
        )


class ServiceQoS(kombu_redis.QoS):
    """Counts a message as out of the worker's hands even if the server did not take that down.

    With kombu's own a model worker, which holds one message at a time, would take no other one for
    ever: Celery logs the error and goes on. What the server still has of the message comes back
    after the visibility timeout, and its job's record says that it has ended.
    """

    @property
    def visibility_timeout(self) -> float:
        """The timeout in seconds of this host's clock, by the server's, which all workers share."""
        with self.channel.conn_or_acquire() as client:
            seconds, microseconds = client.time()
        behind = time.time() - (seconds + microseconds / 1e6)
        return float(self.channel.visibility_timeout + behind)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message."""
        with self._in_any_case(delivery_tag):
            super().ack(delivery_tag)  # type: ignore[no-untyped-call] # kombu leaves it so

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's signature
        """Drop a message, or give it back."""
        with self._in_any_case(delivery_tag):
            super().reject(delivery_tag, requeue=requeue)  # type: ignore[no-untyped-call] # kombu leaves it so

    @contextmanager
    def _in_any_case(self, delivery_tag: str) -> Iterator[None]:
        try:
            yield
        finally:
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call] # kombu leaves it so


class _ServiceChannel:
    """Has the connections of a channel try refused commands again, and nothing else.

    With kombu's own retries redis-py takes an error within a transaction for one of its watched
    keys, and repeats the transaction for as long as the server refuses.
    """

    QoS = ServiceQoS

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002 - kombu's signature
        params: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[misc] # a channel's
        return {**params, "retry": refusal_retry()}

    def _get_client(self) -> Any:  # noqa: ANN401 - kombu's
        prefix = self.global_keyprefix  # type: ignore[attr-defined] # a channel's
        return partial(_PrefixedClient, global_keyprefix=prefix) if prefix else Redis


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


class Channel(_ServiceChannel, _OneClient, kombu_redis.Channel):
    """A channel to one server."""

    connection_class = refusing(Connection, full_is_away=True)
    connection_class_ssl = refusing(SSLConnection, full_is_away=True)


class Transport(kombu_redis.Transport):
    """The transport of redis:// and rediss://."""

    Channel = Channel


class SentinelChannel(_ServiceChannel, _OneClient, kombu_redis.SentinelChannel):
    """A channel to the master that sentinels name."""

    connection_class = refusing(SentinelManagedConnection, full_is_away=True)
    connection_class_ssl = refusing(kombu_redis.SentinelManagedSSLConnection, full_is_away=True)


class SentinelTransport(kombu_redis.SentinelTransport):
    """The transport of sentinel://."""

    Channel = SentinelChannel
