"""What can go wrong with an upload in pieces."""

from tasks.errors import TaskError


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
