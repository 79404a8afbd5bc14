"""One job's result for another, equal one: copies of the objects, and the record's words."""

from typing import Any, Final

import structlog

from tasks import keys
from tasks.errors import TaskError
from tasks.jobs import Job
from tasks.manifest import write_manifest
from tasks.storage import ObjectStore

#: What a record says of the result itself.
_FACTS: Final = (
    "format",
    "width",
    "height",
    "size",
    "full_width",
    "full_height",
    "foreground",
    "coverage",
)

_log = structlog.get_logger(__name__)


def result_facts(job: Job, donor: Job) -> dict[str, Any]:
    """The fields of a job whose result is a copy of the donor's."""
    return {
        "result_key": _result_key(job, donor),
        "cached": True,
        **{name: getattr(donor, name) for name in _FACTS},
    }


def copy_result(objects: ObjectStore, job: Job, donor: Job) -> None:
    """The donor's result, under a key of the job's own.

    Raises:
        ObjectNotFoundError: the donor's has gone.
        StoreUnavailableError: nothing is known of the copy.
    """
    objects.copy(donor.result_key or "", _result_key(job, donor))


def copy_inputs(objects: ObjectStore, job: Job, donor: Job) -> None:
    """The same for the original and what goes behind it; raises the same."""
    objects.copy(donor.original_key, job.original_key, metadata=write_manifest(job))
    if job.background_key:
        objects.copy(donor.background_key or "", job.background_key)


def discard(objects: ObjectStore, key: str) -> None:
    """Remove an object that nothing names; the sweeper takes it if this fails."""
    try:
        objects.delete(key)
    except TaskError:
        _log.warning("object.left", key=key)


def _result_key(job: Job, donor: Job) -> str:
    return keys.copied_result_key(job.task_id, donor.result_key or "")
