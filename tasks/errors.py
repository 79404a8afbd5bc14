"""What can go wrong between the API, Redis and the object store, under one root."""

from typing import ClassVar


class TaskError(Exception):
    """Root of everything that `tasks` raises on purpose."""

    code: ClassVar[str] = "internal_error"


class SettingsError(TaskError):
    """One or more settings are wrong; the text lists all of them."""

    code = "invalid_settings"


class QueueUnavailableError(TaskError):
    """Redis did not answer in time."""

    code = "queue_unavailable"


class IdTakenError(QueueUnavailableError):
    """A job of that id is recorded already, or was withdrawn."""


class UndecidedError(QueueUnavailableError):
    """Redis went away over a new job's record: there may be one, now or later."""


class ResultKnownError(TaskError):
    """A job that gives the same result has just succeeded: nothing was recorded.

    Attributes:
        task_id: that job.
    """

    def __init__(self, task_id: str) -> None:
        super().__init__(f"The job {task_id} has the result already.")
        self.task_id = task_id


class UnreadableRecordError(TaskError):
    """A record is not what this version writes: it was damaged, or written by another version.

    Attributes:
        task_id: the job.
        reason: what is wrong with its record.
    """

    code = "unreadable_record"
    ADVICE: ClassVar[str] = (
        "Mend it, or delete the key rmbg:job:{0}: "
        "`rmbg restore` then makes the record anew, as long as its picture is kept"
    )

    def __init__(self, task_id: str, reason: str) -> None:
        super().__init__(
            f"The record of {task_id} cannot be read: {reason}. {self.ADVICE.format(task_id)}"
        )
        self.task_id, self.reason = task_id, reason


class QueueFullError(TaskError):
    """As many jobs are pending as the operator allows."""

    code = "queue_full"


class StoreUnavailableError(TaskError):
    """The object store did not answer in time, or refused."""

    code = "store_unavailable"


class ObjectNotFoundError(TaskError):
    """The bucket holds no object under that key."""

    code = "object_not_found"


class LeaseLostError(TaskError):
    """The job belongs to another worker now; nothing of this run may be published."""

    code = "lease_lost"


class KeyNameError(TaskError):
    """An API key's name is taken, or nobody has it."""

    code = "key_name"


class WebhookSecretError(TaskError):
    """A webhook secret is not in the form of Standard Webhooks."""

    code = "webhook_secret"
