"""A client of Redis that asks its gate first, and tells it what came of each call."""

from typing import Any, cast

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from api.gates.gate import ClosedError, Gate
from tasks.connection import client_options
from tasks.probing import probe_redis
from tasks.settings import Settings

_AWAY = (RedisConnectionError, RedisTimeoutError)


class GatedRedis(Redis):
    """Waits once for a Redis that does not answer, not once for each command."""

    gate: Gate

    def execute_command(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - redis's signature
        """As the base class; `ConnectionError` at once while Redis is known to be away."""
        _check(self.gate)
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call] # redis leaves it so
        except _AWAY:
            self.gate.failed()
            raise

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> "GatedPipeline":  # noqa: FBT001, FBT002 - the same
        """As the base class, through the same gate."""
        made = GatedPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        made.gate = self.gate
        return made


class GatedPipeline(Pipeline):
    """Several commands in one round trip."""

    gate: Gate

    def execute(self, raise_on_error: bool = True) -> list[Any]:  # noqa: FBT001, FBT002 - the same
        """As the base class; `ConnectionError` at once while Redis is known to be away."""
        _check(self.gate)
        try:
            return super().execute(raise_on_error)
        except _AWAY:
            self.gate.failed()
            raise


def queue_gate(settings: Settings) -> Gate:
    """Redis's: whatever it answers counts until a call comes to nothing."""
    return Gate(lambda: probe_redis(settings))


def connect_gated(url: str, gate: Gate) -> GatedRedis:
    """`tasks.connection.connect`, through a gate."""
    client = cast("GatedRedis", GatedRedis.from_url(url, **client_options()))
    client.gate = gate
    return client


def _check(gate: Gate) -> None:
    try:
        gate.check()
    except ClosedError as error:
        # What the probe said; `redis_errors` begins the sentence anew.
        raise RedisConnectionError(str(error).partition(": ")[2] or str(error)) from error
