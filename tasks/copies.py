"""Copies of one job's objects and result fields for an equal job."""

from typing import Any, Final

import structlog

from tasks import keys
from tasks.errors import TaskError
from tasks.jobs import Job
from tasks.manifest import write_manifest
from tasks.storage import ObjectStore

#: The fields of a record that describe the result.
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


def result_facts(job: Job, cached_from: Job) -> dict[str, Any]:
    """Return the result fields of a job whose result is a copy of another job's."""
    return {
        "result_key": _result_key(job, cached_from),
        "cached": True,
        **{name: getattr(cached_from, name) for name in _FACTS},
    }


def copy_result(objects: ObjectStore, job: Job, cached_from: Job) -> None:
    """Copy another job's result to a key of this job.

    Raises:
        ObjectNotFoundError: the other job's result is gone.
        StoreUnavailableError: whether the copy was made is unknown.
    """
    objects.copy(cached_from.result_key or "", _result_key(job, cached_from))


def copy_inputs(objects: ObjectStore, job: Job, cached_from: Job) -> None:
    """Copy another job's original and background; raises what `copy_result` raises."""
    objects.copy(cached_from.original_key, job.original_key, metadata=write_manifest(job))
    if job.background_key:
        objects.copy(cached_from.background_key or "", job.background_key)


def discard(objects: ObjectStore, key: str) -> None:
    """Remove an object that no record names; if this fails, the sweeper removes it."""
    try:
        objects.delete(key)
    except TaskError:
        _log.warning("object.left", key=key)


def _result_key(job: Job, cached_from: Job) -> str:
    return keys.copied_result_key(job.task_id, cached_from.result_key or "")
