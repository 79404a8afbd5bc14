"""A job: its id, states and record, and errors that are not its input's fault."""

import json
import secrets
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from types import UnionType
from typing import Any, Final, Self, cast, get_args, get_origin, get_type_hints

#: Letters and digits that are not confused when read aloud: no 0 and o, no 1, i and l.
_ALPHABET: Final = "23456789abcdefghjkmnpqrstuvwxyz"


def new_task_id() -> str:
    """Draw a task's id, `rm-YYYYMMDD-` (UTC) and a random word."""
    return dated_id("rm")


def dated_id(kind: str) -> str:
    """Draw an id, `<kind>-YYYYMMDD-` (UTC) and a random word."""
    return f"{kind}-{datetime.now(UTC):%Y%m%d}-{random_word()}"


def random_word() -> str:
    """Draw 20 letters and digits that cannot be guessed: 31^20 words, about 99 bits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(20))


class Status(StrEnum):
    """A job's state."""

    #: Accepted and recorded; no worker runs it.
    QUEUED = "queued"
    #: A worker holds the lease.
    PROCESSING = "processing"
    #: The result is in the bucket.
    SUCCEEDED = "succeeded"
    #: It is not tried again; `error` says why.
    FAILED = "failed"
    #: Ended by its owner or an operator.
    CANCELED = "canceled"

    @property
    def final(self) -> bool:
        """True if no other state follows."""
        return self not in (Status.QUEUED, Status.PROCESSING)


class Priority(IntEnum):
    """How urgent a job is; the Redis transport keeps a list for each of these levels."""

    #: A person waits for the result.
    HIGH = 0
    NORMAL = 3
    #: Bulk work.
    LOW = 6


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed."""

    type: str
    message: str
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One picture's job. Times are unix seconds, durations milliseconds, sizes bytes."""

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
    #: Of the request (W3C Trace Context): the parent of the worker's and the webhook's spans.
    traceparent: str = ""
    #: Id of its `tasks.api_keys.Owner`; empty where API keys are off.
    owner: str = ""
    #: A JSON object that is repeated in each answer about the task.
    metadata: dict[str, Any] = field(default_factory=dict)
    #: Where the webhook goes, and for which events; an empty list means all.
    webhook_url: str | None = None
    webhook_events: list[str] = field(default_factory=list)
    batch_id: str | None = None
    #: The background picture.
    background_key: str | None = None
    #: Its result is a copy of an equal job's: no model ran for it.
    cached: bool = False
    #: Equal for jobs of one owner with equal results; None: neither cached nor deduplicated.
    cache_key: str | None = None
    #: How many seconds the result may be reused.
    cache_seconds: int | None = None
    #: The primary whose result this job waits for, as its duplicate.
    primary: str | None = None
    priority: Priority = Priority.NORMAL
    #: The priority that the job was raised to by aging; None if it was not.
    raised_priority: Priority | None = None
    #: The Celery priority of its latest message; None before the first.
    priority_level: Priority | None = None
    #: The job fails unless a worker begins it by then.
    deadline: float | None = None
    #: Seconds from submission to the first deadline, once a requeue has set a later deadline.
    queue_timeout: float | None = None
    #: Number of the dispatch of its latest message.
    dispatch_seq: int = 0
    #: Messages after the first one.
    redispatches: int = 0
    #: Runs that were begun.
    attempts: int = 0
    #: Runs over which the worker's process died, perhaps by the picture's fault.
    crashes: int = 0
    #: Runs that ended by the fault of a worker, host or server.
    losses: int = 0
    #: The worker that failed to run it, and leaves it to others.
    excluded_worker: str | None = None
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
    #: Share of the input's pixels with alpha over one half, 0..1.
    coverage: float | None = None
    timings: dict[str, int] = field(default_factory=dict)
    error: JobError | None = None

    def evolve(self, **changes: Any) -> Self:  # noqa: ANN401 - any field's type
        """Return a copy with some fields changed."""
        return replace(self, **changes)

    @property
    def elapsed_ms(self) -> int | None:
        """Milliseconds from submission to the end; None before the end."""
        if self.finished_at is None:
            return None
        return round((self.finished_at - self.created_at) * 1000)

    def log_context(self) -> dict[str, str]:
        """Return what every log line about this job carries."""
        return {"task_id": self.task_id, "request_id": self.request_id}


def _kind(hint: Any) -> type:  # noqa: ANN401 - a type, or one with parameters, or with None
    """Return the class of a field's values, such as dict for `dict[str, int] | None`."""
    if isinstance(hint, UnionType):
        hint = get_args(hint)[0]
    return cast("type", get_origin(hint) or hint)


#: How a record stores a field depends on this.
_KINDS: Final = {name: _kind(hint) for name, hint in get_type_hints(Job).items()}

_REQUIRED: Final = tuple(
    each.name for each in fields(Job) if each.default is each.default_factory is MISSING
)


def to_record(values: dict[str, Any]) -> dict[str, str]:
    """Return fields of a job or batch as a Redis hash; None is left out."""
    return {name: _write(value) for name, value in values.items() if value is not None}


def _write(value: Any) -> str:  # noqa: ANN401 - any field's type
    if isinstance(value, JobError):
        return write_error(value)
    if isinstance(value, (IntEnum, bool)):
        return str(int(value))
    if isinstance(value, (dict, list)):
        return json.dumps(value, separators=(",", ":"), sort_keys=True)
    return repr(value) if isinstance(value, float) else str(value)


def write_error(error: JobError) -> str:
    """Return an error as a record stores it."""
    return json.dumps(asdict(error), separators=(",", ":"), sort_keys=True)


def from_record(record: dict[str, str]) -> Job:
    """Parse the record of a whole job; fields that this version does not know are ignored.

    Raises:
        ValueError: a field is missing or malformed; the message names it.
    """
    values = {name: _read(name, text) for name, text in record.items() if name in _KINDS}
    missing = [name for name in _REQUIRED if name not in values]
    if missing:
        raise ValueError(f"missing fields: {', '.join(missing)}")
    return Job(**values)


def _read(name: str, text: str) -> Any:  # noqa: ANN401 - any field's type
    kind = _KINDS[name]
    try:
        if kind in (dict, list, JobError):
            return _read_json(kind, text)
        if kind is bool:
            return text == "1"
        return kind(int(text)) if kind is Priority else kind(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error


def _read_json(kind: type, text: str) -> Any:  # noqa: ANN401 - any field's type
    value = json.loads(text)
    if kind is list:
        if not isinstance(value, list):
            raise TypeError("expected a JSON array")
    elif not isinstance(value, dict):
        raise TypeError("expected a JSON object")
    elif kind is JobError:
        return JobError(**value)
    return value


#: Its worker's process crashed, or was killed at the time limit, `MAX_CRASHES` times.
POISON: Final = JobError(
    "poison", "The image brought its worker down repeatedly; it is not tried again."
)

#: A worker, host or server failed `MAX_LOSSES` times while it ran.
LOST: Final = JobError(
    "lost", "The service lost its worker too often while it ran; submit it again.", retryable=True
)

#: Its pictures expired before it was done.
EXPIRED: Final = JobError(
    "expired", "The task was not done before its pictures expired.", retryable=True
)

#: No worker began it before its deadline.
OVERDUE: Final = JobError(
    "deadline_exceeded", "No worker was free before the task's deadline.", retryable=True
)

#: What it was submitted with is no longer there.
ORIGINAL_MISSING: Final = JobError(
    "original_missing", "The uploaded image is no longer stored; submit it again."
)

#: An error that nobody foresaw; its text stays in the log.
INTERNAL_ERROR: Final = JobError(
    "internal_error",
    "The image could not be processed; the service's log says why.",
    retryable=True,
)
