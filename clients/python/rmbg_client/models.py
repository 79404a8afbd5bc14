"""What the service answers with: tasks, batches and their parts. Unknown fields are left out."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

#: States that a task does not leave.
FINAL_STATUSES: Final = frozenset({"succeeded", "failed", "canceled", "expired"})


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


@dataclass(frozen=True, slots=True)
class TaskError:
    """Why a task failed.

    Attributes:
        retryable: whether the same picture may succeed if it is submitted again.
    """

    type: str
    message: str
    retryable: bool

    @classmethod
    def of(cls, data: Mapping[str, Any] | None) -> Self | None:
        """Read the service's JSON; None if there is no error."""
        return None if data is None else cls(data["type"], data["message"], data["retryable"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task as the service shows it.

    Attributes:
        status: `queued`, `processing`, `succeeded`, `failed`, `canceled` or `expired`.
        original_url: signed address of the picture, until `urls_expire_at`.
        result_url: signed address of the cutout, until `urls_expire_at`; None without one.
        format: of the cutout, as its width, height and size in bytes.
        elapsed_ms: from submission to end.
        cached: whether the cutout of an earlier, equal task was taken.
        attempts: how often a worker has begun it.
        timings: milliseconds of each stage.
    """

    task_id: str
    status: str
    original_url: str | None
    result_url: str | None
    urls_expire_at: datetime | None
    format: str | None
    width: int | None
    height: int | None
    size: int | None
    elapsed_ms: int | None
    cached: bool
    model: str
    attempts: int
    worker: str | None
    metadata: Mapping[str, Any]
    timings: Mapping[str, int]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime
    error: TaskError | None

    @property
    def final(self) -> bool:
        """Whether it stays in its state."""
        return self.status in FINAL_STATUSES

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """Read the service's JSON."""
        return cls(
            task_id=data["task_id"],
            status=data["status"],
            original_url=data["original_url"],
            result_url=data["result_url"],
            urls_expire_at=_time(data.get("urls_expire_at")),
            format=data["format"],
            width=data["width"],
            height=data["height"],
            size=data["size"],
            elapsed_ms=data["elapsed_ms"],
            cached=data["cached"],
            model=data["model"],
            attempts=data["attempts"],
            worker=data["worker"],
            metadata=data["metadata"],
            timings=data["timings"],
            created_at=datetime.fromisoformat(data["created_at"]),
            started_at=_time(data["started_at"]),
            finished_at=_time(data["finished_at"]),
            expires_at=datetime.fromisoformat(data["expires_at"]),
            error=TaskError.of(data["error"]),
        )


@dataclass(frozen=True, slots=True)
class Submission:
    """The answer to a submission.

    Attributes:
        status: `queued`; or a final one, if the result was cached or came within the wait.
        position: how many tasks of its queue go before it; None if it is final.
        replayed: whether an earlier request with the same idempotency key made the task.
        task: the task, if it is final.
    """

    task_id: str
    status: str
    position: int | None
    replayed: bool
    task: Task | None

    @classmethod
    def of(cls, data: Mapping[str, Any], *, replayed: bool) -> Self:
        """Read the service's JSON: of a submission, or of a final task."""
        task = Task.of(data) if "expires_at" in data else None
        return cls(data["task_id"], data["status"], data.get("position"), replayed, task)


@dataclass(frozen=True, slots=True)
class TaskPage:
    """One page of the caller's tasks, newest first.

    Attributes:
        next_cursor: where the next page begins; None on the last one.
    """

    tasks: tuple[Task, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One picture of a batch.

    Attributes:
        index: its place, from 0.
        name: its file name, or its address.
        task_id: None if the picture was refused; then `error` says why.
    """

    index: int
    name: str
    task_id: str | None
    status: str
    error: TaskError | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch as the service shows it.

    Attributes:
        status: `processing`, `completed` or `expired`.
        counts: number of tasks by status.
        progress: share of its pictures that are final, 0 to 1.
        items: in the order of submission; empty in a webhook whose body would be too large.
    """

    batch_id: str
    status: str
    total: int
    counts: Mapping[str, int]
    progress: float
    metadata: Mapping[str, Any]
    created_at: datetime
    completed_at: datetime | None
    expires_at: datetime
    items: tuple[BatchItem, ...]

    @property
    def final(self) -> bool:
        """Whether all of its tasks are final."""
        return self.status != "processing"

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """Read the service's JSON."""
        return cls(
            batch_id=data["batch_id"],
            status=data["status"],
            total=data["total"],
            counts=data["counts"],
            progress=data["progress"],
            metadata=data["metadata"],
            created_at=datetime.fromisoformat(data["created_at"]),
            completed_at=_time(data["completed_at"]),
            expires_at=datetime.fromisoformat(data["expires_at"]),
            items=tuple(
                BatchItem(
                    each["index"],
                    each["name"],
                    each["task_id"],
                    each["status"],
                    TaskError.of(each["error"]),
                )
                for each in data["items"] or ()
            ),
        )
