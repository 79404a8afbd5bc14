"""The prefix of all keys (`RMBG_REDIS_PREFIX`), put before a command's keys as it is sent.

Stores and Lua scripts name keys without it, so that none can forget it. Celery's keys get the same
prefix from its transport.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

#: Commands whose first argument is their only key or channel.
_ONE_KEY: Final = """
    EXPIRE EXPIREAT GET HDEL HEXISTS HGET HGETALL HKEYS HLEN HMGET HSCAN HSET HSETNX LINDEX LLEN
    LRANGE PUBLISH RPUSH SADD SCARD SET SMEMBERS SREM TTL TYPE ZADD ZCARD ZCOUNT ZMSCORE ZRANGE
    ZRANGEBYSCORE ZREM ZREMRANGEBYSCORE ZREVRANGE ZSCAN ZSCORE
"""
#: Those of which every argument is one.
_ALL_KEYS: Final = "DEL EXISTS MGET PSUBSCRIBE PUNSUBSCRIBE SUBSCRIBE UNSUBSCRIBE WATCH"
#: Those that tell the number of their keys behind the script.
_SCRIPTS: Final = "EVAL EVALSHA"
#: Those without keys, and SCAN, by which the doctor looks at everybody's.
_NO_KEY: Final = """
    AUTH BGREWRITEAOF CLIENT DISCARD EXEC HELLO INFO MULTI PING SCAN SCRIPT SELECT TIME UNWATCH
"""
#: Where a command has its keys, given its arguments, by the command.
_KEYS: Final[Mapping[str, Callable[[Sequence[Any]], range]]] = MappingProxyType(
    {
        **dict.fromkeys(_ONE_KEY.split(), lambda _: range(1)),
        **dict.fromkeys(_ALL_KEYS.split(), lambda arguments: range(len(arguments))),
        **dict.fromkeys(_SCRIPTS.split(), lambda arguments: range(2, 2 + int(arguments[1]))),
        **dict.fromkeys(_NO_KEY.split(), lambda _: range(0)),
    }
)


def with_prefix(prefix: str, command: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a command with the prefix before each key.

    Raises:
        LookupError: the table does not say where the command has its keys. It is not sent, since
            without the prefix it would reach the keys of others.
    """
    name, arguments = str(command[0]).partition(" ")[0], command[1:]
    if name not in _KEYS:
        raise LookupError(f"{name} is missing from the table of keys in tasks/key_prefix.py")
    keys = _KEYS[name](arguments)
    return (
        command[0],
        *(f"{prefix}{each}" if place in keys else each for place, each in enumerate(arguments)),
    )
