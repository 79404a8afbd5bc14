"""What the doctor says: one line for each thing that was looked at."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    #: It works, but somebody should look.
    WARN = "warn"
    #: Jobs are not done, or may be lost, until somebody acts.
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line.

    Attributes:
        subject: what was looked at, a stable name such as `redis.aof`.
        level: how bad it is.
        text: what was seen.
        advice: what to do; empty if nothing.
    """

    subject: str
    level: Level
    text: str
    advice: str = ""


def ok(subject: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding(subject, Level.OK, text)


def warn(subject: str, text: str, advice: str) -> Finding:
    """Somebody should look."""
    return Finding(subject, Level.WARN, text, advice)


def fail(subject: str, text: str, advice: str) -> Finding:
    """Somebody has to act."""
    return Finding(subject, Level.FAIL, text, advice)
