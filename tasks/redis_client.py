"""Access to Redis: clients, the translation of their errors, and the Lua scripts."""

import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self, TypeAlias

import structlog
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import LockError, NoScriptError, OutOfMemoryError, RedisError, ResponseError
from redis.lock import Lock

from tasks import redis_keys
from tasks.errors import QueueUnavailableError, RedisFullError
from tasks.metrics import JOB_BUCKETS
from tasks.redis_address import RedisAddress, says_full
from tasks.settings import Settings

#: The Lua scripts call EXPIRETIME, which came with Redis 7.0. Every release of Valkey has it, and
#: tells a version of Redis that it is compatible with.
_MINIMUM_REDIS: Final = (7, 0)
_OTHER_MODES: Final = MappingProxyType(
    {
        "cluster": "it is a node of a cluster, which is not supported: use one server, with "
        "sentinels for failover",
        "sentinel": "it is a sentinel: write redis+sentinel://host:26379/mymaster",
    }
)
#: How long a comparison of this machine's clock with Redis's counts.
_COMPARED_SECONDS: Final = 5.0
#: Timeout of a probe of Redis or the object store.
PROBE_SECONDS = 1.0
#: How long Redis keeps what a probe writes.
_PROBE_KEPT_SECONDS: Final = 10

_log = structlog.get_logger(__name__)


def probe_redis(settings: Settings) -> None:
    """Raise `QueueUnavailableError` unless Redis can be used, and takes a write in time.

    A replica, a full server or one without a disk answers a `PING`, and takes no picture.
    """
    client = connect(settings.redis_address, timeout=PROBE_SECONDS)
    with redis_errors(), client:
        if problem := server_problem(client):
            raise QueueUnavailableError(f"{settings.redis_address}: {problem}")
        client.set(redis_keys.PROBE, "1", ex=_PROBE_KEPT_SECONDS)


def server_problem(client: Redis) -> str:
    """Return why the service cannot work with a server; empty if it can, or if it does not tell."""
    try:
        info = client.info("server")
    except ResponseError:
        return ""
    version = str(info.get("redis_version", ""))
    mode = str(info.get("redis_mode", info.get("server_mode", "")))
    if mode in _OTHER_MODES:
        return _OTHER_MODES[mode]
    if version[:1].isdigit() and tuple(map(int, version.split(".")[:2])) < _MINIMUM_REDIS:
        return f"Redis {version} lacks EXPIRETIME: upgrade to Redis 7.0 or later, or to Valkey"
    return ""


def client_options(*, timeout: float = 3.0) -> dict[str, Any]:
    """Return the options of a Redis client that fails within `timeout` seconds."""
    return {
        "decode_responses": True,
        "socket_timeout": timeout,
        "socket_connect_timeout": min(timeout, 3.0),
        "socket_keepalive": True,
        "health_check_interval": 10,
    }


def connect(where: RedisAddress | str, *, timeout: float = 3.0) -> Redis:
    """Build a client that fails within `timeout` seconds instead of hanging.

    With a URL its keys have no prefix.
    """
    return Redis.from_pool(RedisAddress.of(where).pool(**client_options(timeout=timeout)))


@contextmanager
def redis_errors() -> Iterator[None]:
    """Turn the Redis client's errors into `QueueUnavailableError`, or `RedisFullError` of them.

    Raises:
        LockError: as it is, since Redis has answered: a lock expired before it was used again.
    """
    try:
        yield
    except LockError:
        raise
    except OutOfMemoryError as error:
        raise RedisFullError(f"Redis is full, raise its maxmemory: {error}") from error
    except RedisError as error:
        if says_full(error):
            raise RedisFullError(f"Redis cannot write, check its disk: {error}") from error
        raise QueueUnavailableError(f"Redis does not answer: {error}") from error


@contextmanager
def logged_if_away(event: str) -> Iterator[None]:
    """Log an event if Redis does not answer: the job matters more than what others learn of it."""
    try:
        yield
    except QueueUnavailableError as error:
        _log.warning(event, reason=str(error))


def pipeline_each(
    client: Redis, items: Sequence[str], ask: Callable[[Pipeline, str], object]
) -> list[Any]:
    """Ask Redis once for each item, in one round trip.

    Returns:
        The answers; an exception in place of an answer that is refused or is not UTF-8.

    Raises:
        RedisError: Redis does not answer, or refuses everything, as with full memory.
    """
    if not items:
        return []
    try:
        with client.pipeline(transaction=False) as pipe:
            for item in items:
                ask(pipe, item)
            answers = pipe.execute(raise_on_error=False)
    except UnicodeDecodeError as error:
        if len(items) == 1:
            return [error]
        middle = len(items) // 2
        return [
            *pipeline_each(client, items[:middle], ask),
            *pipeline_each(client, items[middle:], ask),
        ]
    for answer in answers:
        if isinstance(answer, ResponseError) and not concerns_one_record(answer):
            raise answer
    return answers


def concerns_one_record(error: ResponseError) -> bool:
    """Return whether an error is about one key, not about Redis itself, such as full memory."""
    # WRONGTYPE, about a key of another type, stands in place of ERR.
    return type(error) is ResponseError and (
        error.status_code == "ERR" or str(error).startswith("WRONGTYPE")
    )


#: What a command takes: numbers become text, None is left out.
Argument: TypeAlias = str | float | Mapping[str, str] | Sequence[Sequence[str]] | None


class Script(NamedTuple):
    """What Redis runs for one command, and the hash of its text, by which Redis knows it."""

    text: str
    sha1: str


@dataclass(frozen=True, slots=True)
class LuaScripts:
    """The commands of some files of `tasks/lua`, each of which is a script of its own.

    Redis knows a script by the hash of its text. So two versions of the service may run side by
    side on one Redis during an upgrade.
    """

    files: tuple[str, ...]

    def script(self, command: str) -> Script:
        """Return the script of a command; it is put together at the first call."""
        return _script(self.files, command)

    def run(self, client: Redis, command: str, **arguments: Argument) -> Any:  # noqa: ANN401 - what Redis gives
        """Run one command.

        Raises:
            ResponseError: the record that the command changes is damaged; nothing was written.
        """
        packed, script = _pack(arguments), self.script(command)
        try:
            return client.evalsha(script.sha1, 1, redis_keys.PREFIX, command, packed)
        except NoScriptError:
            return client.eval(script.text, 1, redis_keys.PREFIX, command, packed)

    def run_each(
        self, client: Redis, command: str, calls: Sequence[Mapping[str, Argument]]
    ) -> list[Any]:
        """Run one command several times in one round trip; where a call fails, its exception."""
        script = self.script(command)
        with client.pipeline(transaction=False) as pipe:
            for arguments in calls:
                pipe.evalsha(script.sha1, 1, redis_keys.PREFIX, command, _pack(arguments))
            answers = pipe.execute(raise_on_error=False)
        missing = [place for place, each in enumerate(answers) if isinstance(each, NoScriptError)]
        if missing:
            # Redis was restarted and has forgotten the script.
            client.script_load(script.text)
            repeated = self.run_each(client, command, [calls[place] for place in missing])
            for place, answer in zip(missing, repeated, strict=True):
                answers[place] = answer
        return answers


#: A statement of a file, with the comment above it: it begins with a word in the first column. The
#: keyword or the brace in which it ends stands there, too.
_STATEMENT: Final = re.compile(
    r"(?:^--.*\n)*^(?!end\b)[a-z].*\n(?:(?![a-z]|--).*\n|end\b.*\n)*", re.MULTILINE
)
_DEFINED: Final = re.compile(r"^(?:local function (\w+)|local ([\w, ]+))", re.MULTILINE)
_COMMAND: Final = re.compile(r"^commands\.(\w+) =", re.MULTILINE)
#: Words that stand for no function: comments, texts, and names of fields.
_OTHER_WORDS: Final = re.compile(r"--.*|'[^'\n]*'|\.\w+|\w+ =(?!=)")


@dataclass(frozen=True, slots=True, eq=False)
class _Statement:
    """A statement of a file: the names that it defines, and those that it may use."""

    file: str
    text: str
    names: frozenset[str]
    words: frozenset[str]
    command: str

    @classmethod
    def parse(cls, file: str, text: str) -> Self:
        found, command = _DEFINED.search(text), _COMMAND.search(text)
        names = re.findall(r"\w+", found[1] or found[2]) if found else []
        words = re.findall(r"[A-Za-z_]\w*", _OTHER_WORDS.sub("", text))
        return cls(file, text, frozenset(names), frozenset(words), command[1] if command else "")


@cache
def _script(names: tuple[str, ...], command: str) -> Script:
    """Join what a command of some files needs; the first line says whose script it is.

    Redis runs all of a script at each call, and making functions that are not called took two
    thirds of the time of one. So a script has the statements of the files that its command needs,
    in their order: those that define nothing, and the definitions of each word in them.
    """
    statements = _statements(names)
    # A command that two files have is that of the later one.
    own = next(each for each in reversed(statements) if each.command == command)
    defined = {name: each for each in statements for name in each.names}
    found = [own, *(each for each in statements if not each.names and not each.command)]
    needed = set(found)
    wanted = {"dispatch"}
    while found or wanted:
        wanted |= found.pop().words & defined.keys() if found else set()
        more = {defined[word] for word in wanted} - needed
        wanted.clear()
        needed |= more
        found += more
    head = f"-- {command} of tasks/lua/{own.file}.lua"
    chosen = (each.text.rstrip("\n") for each in statements if each in needed)
    text = "\n".join((head, *chosen, "return dispatch()"))
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


@cache
def _statements(names: tuple[str, ...]) -> tuple[_Statement, ...]:
    """Parse files in this order, after the buckets of the histogram."""
    buckets = f"local JOB_BUCKETS = {{{', '.join(map(str, JOB_BUCKETS))}}}"
    found = [_Statement.parse("", buckets)]
    for name in names:
        whole = files("tasks.lua").joinpath(f"{name}.lua").read_text()
        found += (_Statement.parse(name, text) for text in _STATEMENT.findall(whole))
    return tuple(found)


def _pack(arguments: Mapping[str, Argument]) -> str:
    """The arguments as JSON, numbers as text: Lua's JSON would round a unix time."""
    given = {
        name: str(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool)
        else value
        for name, value in arguments.items()
        if value is not None
    }
    return json.dumps(given, ensure_ascii=False, separators=(",", ":"))


#: Jobs, duplicates and batches.
JOBS: Final = LuaScripts(("shared", "quotas", "jobs"))

#: Webhook deliveries.
DELIVERIES: Final = LuaScripts(("shared", "deliveries"))

#: Resumable uploads.
UPLOADS: Final = LuaScripts(("shared", "quotas", "uploads"))

#: What each owner has stored and pending.
QUOTAS: Final = LuaScripts(("shared", "quotas"))

#: Compare-and-set, locks, token buckets.
PRIMITIVES: Final = LuaScripts(("shared",))


def set_absent(client: Redis, key: str, value: str, *, seconds: float) -> bool:
    """Set a key that does not exist, for some seconds, even while Redis is full.

    Returns:
        Whether it did not exist.
    """
    ms = int(seconds * 1000)
    return bool(PRIMITIVES.run(client, "set_absent", key=key, value=value, ms=ms))


def move_member(client: Redis, key: str, member: str, score: float) -> None:
    """Give a member of a sorted set another score, if it is one, even while Redis is full."""
    PRIMITIVES.run(client, "move_member", key=key, member=member, score=score)


def add_to_counter(client: Redis, name: str, number: int = 1) -> None:
    """Add to a count since the service's first day, even while Redis is full."""
    PRIMITIVES.run(client, "add_to_counter", name=name, number=number)


class RedisClock:
    """Tells unix seconds by Redis's clock, which all hosts share.

    What lasts for seconds, such as a heartbeat, would be over at once for a host whose own clock is
    ahead.
    """

    def __init__(self, client: Redis, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._monotonic = monotonic
        #: Redis's time less the monotonic one, and until when that counts.
        self._ahead = (0.0, -math.inf)

    def __call__(self) -> float:
        """Return the time.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        now = self._monotonic()
        ahead, until = self._ahead
        if now >= until:
            with redis_errors():
                seconds, microseconds = self._client.time()
            answered = self._monotonic()
            ahead = seconds + microseconds / 1e6 - (now + answered) / 2
            self._ahead = (ahead, answered + _COMPARED_SECONDS)
            now = answered
        return now + ahead


class RedisLock(Lock):
    """A lock of redis-py that can be taken while Redis is full: whoever holds it makes room."""

    def do_acquire(self, token: str | bytes) -> bool:
        """Take the lock, if nobody has it."""
        text = token if isinstance(token, str) else token.decode()
        return set_absent(self.redis, self.name, text, seconds=self.timeout or 0)
