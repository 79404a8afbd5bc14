"""The Lua scripts: several steps on Redis as one, called by the name of a command.

Each file of `tasks/lua` is one script behind `shared.lua`, with the table of its keys on top.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final, Self, TypeAlias

from redis import Redis
from redis.exceptions import NoScriptError

from tasks.metrics.definitions import JOB_BUCKETS

#: What a command takes: numbers become text, None is left out.
Argument: TypeAlias = str | float | Mapping[str, str] | Sequence[Sequence[str]] | None


@dataclass(frozen=True, slots=True)
class LuaScript:
    """One script, which Redis knows by the hash of its text.

    Two versions of the service on one Redis each call their own text, so that an upgrade may run
    both side by side.
    """

    text: str
    sha1: str

    @classmethod
    def load(cls, name: str) -> Self:
        """Read one file of `tasks/lua`, with what stands in front of it."""
        folder = files("tasks.lua")
        buckets = ", ".join(map(str, JOB_BUCKETS))
        text = "\n".join(
            (
                f"local JOB_BUCKETS = {{{buckets}}}",
                folder.joinpath("shared.lua").read_text(),
                folder.joinpath(f"{name}.lua").read_text(),
            )
        )
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())

    def run(self, client: Redis, command: str, **arguments: Argument) -> Any:  # noqa: ANN401 - what Redis gives
        """Run one command.

        Raises:
            ResponseError: the record that the command changes is damaged; nothing was written.
        """
        packed = _pack(arguments)
        try:
            return client.evalsha(self.sha1, 0, command, packed)
        except NoScriptError:
            return client.eval(self.text, 0, command, packed)

    def run_each(
        self, client: Redis, command: str, calls: Sequence[Mapping[str, Argument]]
    ) -> list[Any]:
        """Run one command several times in one round trip; where a call fails, its exception."""
        packed = [_pack(arguments) for arguments in calls]
        with client.pipeline(transaction=False) as pipe:
            for each in packed:
                pipe.evalsha(self.sha1, 0, command, each)
            answers = pipe.execute(raise_on_error=False)
            if not any(isinstance(answer, NoScriptError) for answer in answers):
                return answers
            # Redis was restarted and has forgotten the script.
            pipe.script_load(self.text)
            missing = [
                place for place, answer in enumerate(answers) if isinstance(answer, NoScriptError)
            ]
            for place in missing:
                pipe.evalsha(self.sha1, 0, command, packed[place])
            repeated = pipe.execute(raise_on_error=False)[1:]
        for place, answer in zip(missing, repeated, strict=True):
            answers[place] = answer
        return answers


def _pack(arguments: Mapping[str, Argument]) -> str:
    """The arguments as JSON, numbers as text: Lua's JSON would round a unix time."""
    return json.dumps(
        {
            name: str(value) if _is_number(value) else value
            for name, value in arguments.items()
            if value is not None
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )


def _is_number(value: Argument) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


#: Jobs, duplicates and batches.
JOBS: Final = LuaScript.load("jobs")
#: Webhook deliveries.
DELIVERIES: Final = LuaScript.load("deliveries")
#: Compare-and-set, locks, token buckets.
PRIMITIVES: Final = LuaScript.load("primitives")
