"""The Lua scripts of `tasks/lua`, each behind the part that they share."""

from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType

from redis import Redis
from redis.commands.core import Script

from tasks.metrics import JOB_BUCKETS

#: What every script can call.
_SHARED = ("common", "twins")
_NAMES = (
    "create_finished",
    "withdraw",
    "settle",
    "promote",
    "uncache",
    "exchange",
    "create",
    "resend",
    "claim",
    "renew",
    "finish",
    "release",
    "crash",
    "cancel",
    "postpone",
    "requeue",
    "set_aside",
    "overdue",
    "expire",
    "seal_batch",
    "forget",
    "forget_list",
    "erase",
    "claim_delivery",
    "note_attempt",
    "drop_delivery",
    "replay_delivery",
)


def load_scripts(client: Redis) -> Mapping[str, Script]:
    """Each script as a callable that sends its hash, and its text when Redis forgot it.

    Nothing is sent yet.
    """
    folder = files("tasks.lua")
    common = _constants() + "".join(folder.joinpath(f"{name}.lua").read_text() for name in _SHARED)
    return MappingProxyType(
        {
            name: client.register_script(common + folder.joinpath(f"{name}.lua").read_text())
            for name in _NAMES
        }
    )


def _constants() -> str:
    """What Lua and Python have to agree about, as one line of Lua."""
    return f"local JOB_BUCKETS = {{{', '.join(map(str, JOB_BUCKETS))}}}\n"
