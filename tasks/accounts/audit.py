"""The audit trail: a log line for each access to an image, and for its erasure.

A line names the owner, the task and the request, never a URL that opens the image.
"""

from enum import StrEnum

import structlog

from tasks.jobs.model import Job

_log = structlog.get_logger("audit")


class Access(StrEnum):
    """What was done with a task's pictures; the name of the log line."""

    #: Somebody was sent to the result.
    RESULT = "audit.result_read"
    #: Addresses that open the original, the result or both were given out.
    ADDRESSES = "audit.addresses_issued"
    #: Its pictures and its record were erased.
    ERASED = "audit.erased"


def audit_access(access: Access, job: Job, *, request_id: str, **facts: str) -> None:
    """Write the line.

    Args:
        access: what was done.
        job: whose pictures.
        request_id: of the request, or of the sweep, that did it.
        facts: what else is worth knowing; no addresses.
    """
    _log.info(access.value, owner=job.owner, task_id=job.task_id, request_id=request_id, **facts)
