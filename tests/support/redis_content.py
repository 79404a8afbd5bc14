"""What the service keeps in a Redis database, to be compared and searched."""

import re
from functools import cache

from redis import Redis

from tasks import redis_keys
from tests.support.paths import ROOT


def content(redis: Redis) -> dict[str, object]:
    """All keys of the service, each with what it holds."""
    read = {
        "hash": redis.hgetall,
        "string": redis.get,
        "set": redis.smembers,
        "zset": lambda name: redis.zrange(name, 0, -1, withscores=True),
        "list": lambda name: redis.lrange(name, 0, -1),
    }
    names = redis.scan_iter(f"{redis_keys.PREFIX}*")
    return {name: read[redis.type(name)](name) for name in names}


def mentions(redis: Redis, *words: str) -> list[str]:
    """The keys that have one of these words in their name or their content."""
    held = content(redis).items()
    return [name for name, value in held if any(word in f"{name} {value}" for word in words)]


@cache
def _documented(*, expire: bool) -> re.Pattern[str]:
    """The keys that the tables in tasks/lua give an expiry, or none."""
    row = re.compile(r"^-- (rmbg:.+?) +(?:hash|string|set|zset|list)\b.*$", re.MULTILINE)
    text = "".join(file.read_text() for file in (ROOT / "tasks/lua").glob("*.lua"))
    names = {each[1] for each in row.finditer(text) if each[0].endswith(" none") is not expire}
    return re.compile("|".join(re.sub("<.*?>", ".*", re.escape(name)) for name in names))


def without_expiry(redis: Redis) -> list[str]:
    """The keys that never expire, though the tables in tasks/lua say that they do."""
    lasting, expiring = (_documented(expire=each) for each in (False, True))
    names = [name for name in redis.scan_iter(f"{redis_keys.PREFIX}*") if redis.ttl(name) == -1]
    found = [name for name in names if expiring.fullmatch(name) and not lasting.fullmatch(name)]
    # A worker that still runs may just have made one, and its expiry is on the way.
    return [name for name in found if redis.ttl(name) == -1]
