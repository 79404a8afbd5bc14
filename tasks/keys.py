"""Where things lie: keys of the bucket and of Redis, and the ids they are made from."""

import secrets
from datetime import UTC, datetime
from typing import Final

PREFIX: Final = "rmbg:"

#: The workers whose model answers: a sorted set by the unix time until which that holds.
READY_INDEX: Final = f"{PREFIX}workers:ready"

#: Letters and digits that survive being read aloud: no 0/o, 1/l/i.
_ALPHABET: Final = "23456789abcdefghjkmnpqrstuvwxyz"
_RANDOM_CHARACTERS: Final = 20  # 31^20: about 99 bits


def new_task_id(now: datetime | None = None) -> str:
    """A fresh id, `rm-YYYYMMDD-` (UTC) and 20 random characters: it can't be guessed."""
    day = (now or datetime.now(UTC)).strftime("%Y%m%d")
    return f"rm-{day}-{''.join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_CHARACTERS))}"


def original_key(task_id: str) -> str:
    """The uploaded picture, as it came."""
    return f"originals/{task_id}"


def result_key(task_id: str, token: str, extension: str) -> str:
    """The cutout of one run; the lease's token keeps two runs from writing the same object."""
    return f"results/{task_id}/{token}.{extension}"


def job_key(task_id: str) -> str:
    """The record, a hash."""
    return f"{PREFIX}job:{task_id}"


def lease_key(task_id: str) -> str:
    """The running worker's lease, a string with a time to live."""
    return f"{PREFIX}job:{task_id}:lease"


def index_key(status: str) -> str:
    """The ids of all jobs of a status, a sorted set by unix seconds of entry."""
    return f"{PREFIX}jobs:{status}"


def ready_key(worker: str) -> str:
    """Held by a worker whose model is loaded and answers, a string with a time to live."""
    return f"{PREFIX}worker:{worker}:ready"


def done_channel(task_id: str) -> str:
    """Published once, when a job becomes final."""
    return f"{PREFIX}done:{task_id}"
