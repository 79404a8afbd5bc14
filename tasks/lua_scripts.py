"""The Lua scripts: what Redis runs for each command of `tasks/lua`, and how it is called."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple, Self, TypeAlias

from redis import Redis
from redis.exceptions import NoScriptError

from tasks import redis_keys
from tasks.metrics import JOB_BUCKETS

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
    own = next(each for each in statements if each.command == command)
    defined = {name: each for each in statements for name in each.names}
    pending = [own, defined["dispatch"]]
    pending += (each for each in statements if not each.names and not each.command)
    needed: set[_Statement] = set()
    while pending:
        statement = pending.pop()
        if statement not in needed:
            needed.add(statement)
            pending += (defined[word] for word in statement.words & defined.keys())
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
    """Return arguments as JSON, numbers as text: Lua's JSON would round a unix time."""
    given = {
        name: str(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool)
        else value
        for name, value in arguments.items()
        if value is not None
    }
    return json.dumps(given, ensure_ascii=False, separators=(",", ":"))


#: Jobs, the lists that their messages wait on, duplicates and batches.
JOBS: Final = LuaScripts(("shared", "quotas", "lists", "jobs"))

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
