"""The errors that `tasks` raises on purpose, each with a stable code."""

from typing import ClassVar


class TaskError(Exception):
    """Base of all errors here."""

    code: str = "internal_error"


class SettingsError(TaskError):
    """One or more settings are wrong; the text lists all of them."""

    code = "invalid_settings"


class QueueUnavailableError(TaskError):
    """Redis did not answer in time."""

    code = "queue_unavailable"


class IdTakenError(QueueUnavailableError):
    """The id has a job record already, or a tombstone."""


class UncertainWriteError(QueueUnavailableError):
    """Redis failed while the job `task_id` was recorded: the record may exist, now or later."""

    def __init__(self, text: str, task_id: str) -> None:
        super().__init__(text)
        self.task_id = task_id


class ResultKnownError(TaskError):
    """The job `task_id`, which has an equal result, has just succeeded; nothing was recorded."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"The job {task_id} has the result already.")
        self.task_id = task_id


class UnreadableRecordError(TaskError):
    """The record of the job `task_id` is damaged, or was written by another version."""

    code = "unreadable_record"
    ADVICE: ClassVar[str] = (
        "Repair it, or delete the key rmbg:job:{0}: "
        "`rmbg restore` then recreates the record, as long as its original is kept"
    )

    def __init__(self, task_id: str, reason: str) -> None:
        super().__init__(
            f"The record of {task_id} cannot be read: {reason}. {self.ADVICE.format(task_id)}"
        )
        self.task_id, self.reason = task_id, reason


class QueueFullError(TaskError):
    """`RMBG_MAX_PENDING` jobs are pending."""

    code = "queue_full"


class QuotaExceededError(TaskError):
    """A quota of the owner has no room; `code` says which one, and the text its remedy."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class ObjectStoreUnavailableError(TaskError):
    """The object store did not answer in time, or refused the request."""

    code = "store_unavailable"


class ObjectStoreDeniedError(ObjectStoreUnavailableError):
    """The object store knows the access key, which lacks a permission."""


class ObjectNotFoundError(TaskError):
    """The bucket holds no object under that key."""

    code = "object_not_found"


class StoreFullError(TaskError):
    """There is no room for more in Redis, on the disk or in the object store."""

    code = "store_full"


class RedisFullError(StoreFullError, QueueUnavailableError):
    """Redis is out of memory or cannot write to its disk; the command changed nothing."""


class ObjectStoreFullError(StoreFullError, ObjectStoreUnavailableError):
    """The object store has no space, or the bucket's quota is used up."""


class LeaseLostError(TaskError):
    """Another worker holds the job's lease; nothing of this run may be published."""

    code = "lease_lost"


class UnknownWorkerError(TaskError):
    """There is no model worker of that name."""

    code = "unknown_worker"


class WorkerNotDrainedError(TaskError):
    """The worker takes jobs already."""

    code = "command_refused"


class KeyNameError(TaskError):
    """An API key's name is taken or unknown."""

    code = "key_name"


class KeysFileError(TaskError):
    """A file of exported API keys is damaged, or no such file."""

    code = "keys_file"


class OutboundRequestError(TaskError):
    """Base of the errors of outbound HTTP requests; their texts name no internal address."""

    code = "url_unreachable"


class UrlNotAllowedError(OutboundRequestError):
    """The URL is malformed, or leads to an address that the service must not call."""

    code = "url_not_allowed"


class UrlUnreachableError(OutboundRequestError):
    """The host has no address, does not answer, or closes the connection early."""


class UrlTimeoutError(OutboundRequestError):
    """The request took longer than its time limit."""

    code = "url_timeout"


class UrlTooLargeError(OutboundRequestError):
    """The response is larger than its limit."""

    code = "url_too_large"


class UploadError(TaskError):
    """Base of the errors of resumable uploads."""


class UploadNotFoundError(UploadError):
    """The upload does not exist, or belongs to another owner."""

    code = "upload_not_found"


class UploadExpiredError(UploadError):
    """The upload has expired, and its bytes are deleted."""

    code = "upload_expired"


class UploadLockedError(UploadError):
    """Another request is writing to the upload and did not stop in time."""

    code = "upload_locked"


class OffsetMismatchError(UploadError):
    """The bytes sent do not begin at the upload's offset."""

    code = "upload_offset_mismatch"


class UploadTooLongError(UploadError):
    """The bytes sent go beyond the announced length."""

    code = "upload_too_long"


class ChecksumMismatchError(UploadError):
    """The bytes sent do not match their checksum."""

    code = "checksum_mismatch"


class UploadUnfinishedError(UploadError):
    """The upload is incomplete."""

    code = "upload_unfinished"


class LockLostError(UploadLockedError):
    """The upload's lock expired while its holder was stalled."""
