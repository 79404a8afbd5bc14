"""The Lua scripts of `tasks/lua`, loaded once per client."""

from dataclasses import dataclass
from importlib.resources import files
from typing import Self

from redis import Redis
from redis.commands.core import Script


@dataclass(frozen=True, slots=True)
class Scripts:
    """Each script as a callable that sends its hash, and its text when Redis forgot it."""

    create: Script
    claim: Script
    renew: Script
    finish: Script
    release: Script

    @classmethod
    def load(cls, client: Redis) -> Self:
        """Read the scripts from the package; nothing is sent yet."""
        folder = files("tasks.lua")
        return cls(
            **{
                name: client.register_script(folder.joinpath(f"{name}.lua").read_text())
                for name in ("create", "claim", "renew", "finish", "release")
            }
        )
