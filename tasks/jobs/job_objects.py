"""A job's objects in the bucket: its manifest, copies, erasure."""

import io
import json
from dataclasses import dataclass
from typing import Any, Final

import structlog

from tasks.errors import ObjectNotFoundError, TaskError
from tasks.jobs.job import Job, Priority
from tasks.jobs.store import JobStore
from tasks.object_store import (
    ObjectStore,
    background_key,
    copied_result_key,
    manifest_key,
    original_key,
    results_prefix,
)

#: The metadata in which earlier versions kept the manifest, on the original itself. Whoever had the
#: original's signed URL read the owner and the webhook's address there.
MANIFEST_METADATA: Final = "rmbg-job"

_MANIFEST_VERSION: Final = 1

#: The fields that a job has at its submission.
_MANIFEST_FIELDS: Final = (
    "task_id",
    "model",
    "priority",
    "created_at",
    "expires_at",
    "deadline",
    "options",
    "file_stem",
    "sha256",
    "request_id",
    "owner",
    "metadata",
    "webhook_url",
    "webhook_events",
    "batch_id",
    "background_key",
)


def write_manifest(job: Job) -> bytes:
    """Return a job's manifest, a JSON object."""
    # Fields that are None, {} or [] are left out: `read_manifest` gives them these values.
    values = {name: getattr(job, name) for name in _MANIFEST_FIELDS}
    values = {name: value for name, value in values.items() if value not in (None, {}, [])}
    return json.dumps({"v": _MANIFEST_VERSION, **values}, separators=(",", ":")).encode()


def put_manifest(object_store: ObjectStore, job: Job) -> None:
    """Store a job's manifest, once its pictures are stored.

    Raises:
        ObjectStoreUnavailableError: whether it was stored is unknown.
    """
    key, text = manifest_key(job.task_id), write_manifest(job)
    object_store.put(key, io.BytesIO(text), len(text), "application/json")


def get_manifest(object_store: ObjectStore, task_id: str) -> Job | None:
    """Return the job of an original, as it was submitted; None without a valid manifest.

    Raises:
        ObjectNotFoundError: there is no original.
        ObjectStoreUnavailableError
    """
    text: str | bytes | None = object_store.metadata(original_key(task_id)).get(MANIFEST_METADATA)
    if text is None:
        try:
            text = object_store.get(manifest_key(task_id))
        except ObjectNotFoundError:
            return None
    return read_manifest(task_id, text)


def read_manifest(task_id: str, text: str | bytes) -> Job | None:
    """Return the job of that id as a manifest describes it, as it was submitted, or None."""
    try:
        values = dict(json.loads(text))
        known = {name: values[name] for name in _MANIFEST_FIELDS if name in values}
        known |= {
            "created_at": float(values["created_at"]),
            "expires_at": float(values["expires_at"]),
            "options": dict(values.get("options", {})),
            "priority": Priority(values.get("priority", Priority.NORMAL)),
        }
        # Its queue is chosen by the router when it is sent.
        job = Job(**known, original_key=original_key(task_id), queue="")
    except (KeyError, TypeError, ValueError):
        return None
    return job if job.task_id == task_id else None


#: The fields of a record that describe the result.
_RESULT_FIELDS: Final = (
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


def copied_result_fields(job: Job, cached_from: Job) -> dict[str, Any]:
    """Return the result fields of a job whose result is a copy of another job's."""
    return {
        "result_key": copied_result_key(job.task_id, cached_from.result_key or ""),
        "cached": True,
        **{name: getattr(cached_from, name) for name in _RESULT_FIELDS},
    }


def copy_result(object_store: ObjectStore, job: Job, cached_from: Job) -> None:
    """Copy another job's result to a key of this job.

    Raises:
        ObjectNotFoundError: the other job's result is gone.
        ObjectStoreUnavailableError: whether the copy was made is unknown.
    """
    source = cached_from.result_key or ""
    object_store.copy(source, copied_result_key(job.task_id, source))


def input_keys(job: Job) -> list[str]:
    """Return the keys of what a submission stores, in the order in which it is erased.

    Without the original the manifest restores nothing, and what a running job still writes is an
    orphan.
    """
    keys = (job.original_key, manifest_key(job.task_id), job.background_key)
    return [key for key in keys if key]


def discard_object(object_store: ObjectStore, key: str) -> None:
    """Remove an object that no record names; if this fails, the sweeper removes it."""
    try:
        object_store.delete(key)
    except TaskError:
        _log.warning("object.left", key=key)


@dataclass(frozen=True, slots=True)
class Eraser:
    """Erases jobs; an erasure that was interrupted is completed by the next one."""

    job_store: JobStore
    object_store: ObjectStore

    def erase(self, job: Job) -> None:
        """Cancel a job, then remove its pictures, then its record.

        The cancellation fences off a worker that runs the job: it publishes nothing, and removes
        what it has stored. The record is removed last: if the object store fails on the way, it
        says what is left. Without the original, `rmbg restore` does not bring the job back.

        Raises:
            QueueUnavailableError, ObjectStoreUnavailableError: something is left; repeat it.
        """
        self.job_store.cancel(job.task_id)
        self.erase_pictures(job)
        self.job_store.erase(job.task_id)

    def erase_pictures(self, job: Job) -> None:
        """Remove a job's original, manifest, background and results, and leave its record.

        Raises:
            ObjectStoreUnavailableError: some are left; repeat it.
        """
        for key in (*input_keys(job), job.result_key):
            if key:
                self.object_store.delete(key)
        # Results of earlier runs, whose process may have died.
        for key in self.object_store.list(results_prefix(job.task_id)):
            self.object_store.delete(key)
        self.job_store.release_pictures(job.task_id)

    def erase_unread(self, task_id: str) -> None:
        """Remove the pictures of a job whose record cannot be read, by the keys of its id.

        Raises:
            ObjectStoreUnavailableError: some are left; repeat it.
        """
        for key in (original_key(task_id), manifest_key(task_id), background_key(task_id)):
            self.object_store.delete(key)
        for key in list(self.object_store.list(results_prefix(task_id))):
            self.object_store.delete(key)
        self.job_store.release_pictures(task_id)
