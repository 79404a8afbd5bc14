"""Every error that this package raises, each with a stable code."""

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


class UncertainWriteError(QueueUnavailableError):
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


class ObjectStoreUnavailableError(TaskError):
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


class OutboundRequestError(TaskError):
    """Root of the package. The texts are fit for outsiders: they name no inner address."""

    code = "url_unreachable"


class UrlNotAllowedError(OutboundRequestError):
    """The address is malformed, or leads where outsiders may not send this service."""

    code = "url_not_allowed"


class UrlUnreachableError(OutboundRequestError):
    """Its host has no address, does not answer, or breaks off."""

    code = "url_unreachable"


class UrlTimeoutError(OutboundRequestError):
    """It took longer than was allowed."""

    code = "url_timeout"


class UrlTooLargeError(OutboundRequestError):
    """It sent more bytes than were allowed."""

    code = "url_too_large"


class UploadError(TaskError):
    """Root of them."""


class UploadNotFoundError(UploadError):
    """There is no such upload, or it is somebody else's."""

    code = "upload_not_found"


class UploadExpiredError(UploadError):
    """The upload's time is over; its bytes are gone."""

    code = "upload_expired"


class UploadLockedError(UploadError):
    """Another request is writing to this upload, and goes on doing so."""

    code = "upload_locked"


class OffsetMismatchError(UploadError):
    """A piece does not begin where the upload ends."""

    code = "upload_offset_mismatch"


class UploadTooLongError(UploadError):
    """A piece goes beyond the length that was announced."""

    code = "upload_too_long"


class ChecksumMismatchError(UploadError):
    """A piece is not what its checksum says."""

    code = "checksum_mismatch"


class UploadUnfinishedError(UploadError):
    """The upload is not whole yet."""

    code = "upload_unfinished"


class LockLostError(UploadLockedError):
    """The lock of an upload ran out while its holder stood still."""
