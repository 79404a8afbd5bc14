"""What the service keeps in a Redis database, to be compared and searched."""

from redis import Redis

from tasks import redis_keys


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
