"""A job's record: what it is, what may become of it, and how it is written down."""

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Any, Final, Self


class Status(StrEnum):
    """Where a job stands."""

    #: Accepted and recorded; no worker has begun it.
    QUEUED = "queued"
    #: A worker holds the lease.
    PROCESSING = "processing"
    #: The result lies in the bucket.
    SUCCEEDED = "succeeded"
    #: It will not be tried again; `error` says why.
    FAILED = "failed"
    #: Ended by its owner.
    CANCELED = "canceled"

    @property
    def final(self) -> bool:
        """Nothing follows this state."""
        return not TRANSITIONS[self]


class Priority(IntEnum):
    """How urgent a job is: one of the steps that the Redis transport keeps a list for."""

    #: Somebody is waiting for it right now.
    HIGH = 0
    NORMAL = 3
    #: Bulk work.
    LOW = 6


#: What may follow what. The Lua scripts of `store` enforce the same.
TRANSITIONS: Final = MappingProxyType(
    {
        Status.QUEUED: frozenset({Status.PROCESSING, Status.FAILED, Status.CANCELED}),
        Status.PROCESSING: frozenset(
            {Status.QUEUED, Status.SUCCEEDED, Status.FAILED, Status.CANCELED}
        ),
        Status.SUCCEEDED: frozenset[Status](),
        Status.FAILED: frozenset[Status](),
        Status.CANCELED: frozenset[Status](),
    }
)


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed."""

    type: str
    message: str
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One picture's record. Times are unix seconds, durations milliseconds, sizes bytes."""

    task_id: str
    model: str
    queue: str
    original_key: str
    created_at: float
    expires_at: float
    status: Status = Status.QUEUED
    #: `inference.options.Options.to_dict()`.
    options: dict[str, Any] = field(default_factory=dict)
    #: The upload's name without folders or extension; names the download.
    file_stem: str = "image"
    sha256: str = ""
    request_id: str = ""
    #: Of the request (W3C Trace Context); the worker's and the webhook's spans go under it.
    traceparent: str = ""
    #: Id of the `tasks.owners.Owner` whose it is; empty for anybody's.
    owner: str = ""
    #: A JSON object that is echoed wherever the task is shown.
    metadata: dict[str, Any] = field(default_factory=dict)
    #: Who is to be told of the end, and of which ends; none named means all.
    webhook_url: str | None = None
    webhook_events: list[str] = field(default_factory=list)
    batch_id: str | None = None
    #: The picture that is put behind the subject.
    background_key: str | None = None
    #: Its result was made from that of an equal task: no model ran for it.
    cached: bool = False
    #: The same for jobs that give the same result; None keeps a job apart. How many seconds the
    #: result is then reused for, and the running job whose result this one waits for.
    cache_key: str | None = None
    cache_seconds: int | None = None
    leader: str | None = None
    priority: Priority = Priority.NORMAL
    #: The priority that it was lifted to, having waited for too long; None if it was not.
    step: Priority | None = None
    #: Not begun by then, it fails.
    deadline: float | None = None
    #: Seconds from submission to its first deadline, where a later one has taken its place.
    patience: float | None = None
    #: Number of its last message's sending, and how often it was sent after the first time.
    sending: int = 0
    sends: int = 0
    #: Runs that were begun; of these, those that its worker's process died over (a fault of the
    #: picture, perhaps), and those that were lost by nobody's fault.
    attempts: int = 0
    crashes: int = 0
    losses: int = 0
    #: The worker on which it went wrong.
    avoid: str | None = None
    worker: str | None = None
    started_at: float | None = None
    finished_at: float | None = None
    result_key: str | None = None
    format: str | None = None
    width: int | None = None
    height: int | None = None
    size: int | None = None
    #: The result's size without the limits on it that the options name.
    full_width: int | None = None
    full_height: int | None = None
    #: `top`, `left`, `width` and `height` of the subject in the result; None: no subject.
    foreground: dict[str, int] | None = None
    #: The share of the input's pixels with alpha over one half, 0..1.
    coverage: float | None = None
    timings: dict[str, int] = field(default_factory=dict)
    error: JobError | None = None

    def evolve(self, **changes: Any) -> Self:  # noqa: ANN401 - any field's type
        """A copy with some fields changed."""
        return replace(self, **changes)

    @property
    def urgency(self) -> Priority:
        """The priority that its message is sent with."""
        return self.priority if self.step is None else self.step

    def begun_anew(self, now: float) -> Self:
        """As it was submitted, and from `now` on with as long to wait as it had then.

        No longer than its pictures are kept, though.
        """
        if self.deadline is None:
            return self
        patience = self.deadline - self.created_at
        return self.evolve(patience=patience, deadline=min(now + patience, self.expires_at))

    @property
    def elapsed_ms(self) -> int | None:
        """From submission to the end, once there is one."""
        if self.finished_at is None:
            return None
        return round((self.finished_at - self.created_at) * 1000)

    def log_context(self) -> dict[str, str]:
        """What every log line about this job carries."""
        return {"task_id": self.task_id, "request_id": self.request_id}


_JSON_FIELDS: Final = MappingProxyType(
    {
        "options": dict,
        "timings": dict,
        "error": dict,
        "metadata": dict,
        "webhook_events": list,
        "foreground": dict,
    }
)
_READERS: Final[Mapping[str, Callable[[str], Any]]] = MappingProxyType(
    {
        "created_at": float,
        "expires_at": float,
        "started_at": float,
        "finished_at": float,
        "deadline": float,
        "patience": float,
        "priority": lambda text: Priority(int(text)),
        "step": lambda text: Priority(int(text)),
        "sending": int,
        "sends": int,
        "attempts": int,
        "crashes": int,
        "losses": int,
        "width": int,
        "height": int,
        "size": int,
        "full_width": int,
        "full_height": int,
        "coverage": float,
        "status": Status,
        "cache_seconds": int,
        "cached": lambda text: text == "1",
    }
)

_REQUIRED: Final = tuple(
    each.name for each in fields(Job) if each.default is each.default_factory is MISSING
)


def to_record(values: dict[str, Any]) -> dict[str, str]:
    """Fields of a job as a Redis hash; absent stands for None."""
    return {name: _write(name, value) for name, value in values.items() if value is not None}


def _write(name: str, value: Any) -> str:  # noqa: ANN401 - any field's type
    if isinstance(value, JobError):
        return write_error(value)
    if isinstance(value, (IntEnum, bool)):
        return str(int(value))
    if name in _JSON_FIELDS:
        return json.dumps(value, separators=(",", ":"), sort_keys=True)
    return repr(value) if isinstance(value, float) else str(value)


def write_error(error: JobError) -> str:
    """An error as it stands in a record."""
    return json.dumps(
        {"type": error.type, "message": error.message, "retryable": error.retryable},
        separators=(",", ":"),
        sort_keys=True,
    )


def from_record(record: dict[str, str]) -> Job:
    """The inverse of `to_record`, for a whole job; fields unknown to this version are ignored.

    Raises:
        ValueError: a field is missing, or is not what `to_record` writes; the text names it.
    """
    known = {each.name for each in fields(Job)}
    values = {name: _read(name, text) for name, text in record.items() if name in known}
    missing = [name for name in _REQUIRED if name not in values]
    if missing:
        raise ValueError(f"without {', '.join(missing)}")
    return Job(**values)


def _read(name: str, text: str) -> Any:  # noqa: ANN401 - any field's type
    try:
        return _read_json(name, text) if name in _JSON_FIELDS else _READERS.get(name, str)(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error


def _read_json(name: str, text: str) -> Any:  # noqa: ANN401 - any field's type
    value = json.loads(text)
    if not isinstance(value, _JSON_FIELDS[name]):
        wanted = "array" if _JSON_FIELDS[name] is list else "object"
        raise TypeError(f"a JSON {wanted} was expected")
    return JobError(**value) if name == "error" else value
