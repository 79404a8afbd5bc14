"""Draws the ids of tasks, batches and uploads, and the tokens of leases."""

import secrets
from datetime import UTC, datetime
from typing import Final

#: Letters and digits that are not confused when read aloud: no 0 and o, no 1, i and l.
_ALPHABET: Final = "23456789abcdefghjkmnpqrstuvwxyz"
_RANDOM_LENGTH: Final = 20  # 31^20: about 99 bits


def new_task_id(now: datetime | None = None) -> str:
    """Draw a task's id, `rm-YYYYMMDD-` (UTC) and 20 random characters, which cannot be guessed."""
    return f"rm-{_day(now)}-{_random_part()}"


def new_batch_id(now: datetime | None = None) -> str:
    """Draw a batch's id, `rb-YYYYMMDD-` (UTC) and 20 random characters."""
    return f"rb-{_day(now)}-{_random_part()}"


def new_upload_id() -> str:
    """Draw the id of a resumable upload, `up-` and 20 random characters."""
    return f"up-{_random_part()}"


def lease_holder(worker: str, pid: int) -> str:
    """Return the beginning of the tokens of all leases that one process of a worker takes."""
    return f"{worker}/{pid}/"


def lease_token(worker: str, pid: int) -> str:
    """Draw the token of a lease: it names the worker, its process, and one run."""
    return f"{lease_holder(worker, pid)}{secrets.token_hex(8)}"


def _day(now: datetime | None) -> str:
    return (now or datetime.now(UTC)).strftime("%Y%m%d")


def _random_part() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_LENGTH))
