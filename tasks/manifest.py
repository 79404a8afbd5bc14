"""What the bucket knows of a job: its record's beginning, kept as metadata of the original.

Redis may lose seconds, or everything; the original lies in the bucket by then, and this with it.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from tasks import keys
from tasks.jobs import Job, Priority

#: One header, `x-amz-meta-rmbg-job`.
METADATA_NAME: Final = "rmbg-job"
#: S3 keeps at most 2 kB of metadata, names included.
MAX_BYTES: Final = 1900
_VERSION: Final = 1
#: What a record is begun with; the rest is the story of its runs.
_FIELDS: Final = (
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
#: Left out, in this order, where all would be too much: the picture can be cut out without them.
_SPARE: Final = ("request_id", "file_stem", "sha256", "metadata")


def write_manifest(job: Job) -> dict[str, str]:
    """The metadata of a job's original: ASCII, and within what S3 keeps.

    Raises:
        ValueError: the options alone are too long.
    """
    # What is left out is read as None, {} or [].
    values = {name: getattr(job, name) for name in _FIELDS}
    values = {name: value for name, value in values.items() if value not in (None, {}, [])}
    for spare in ("", *_SPARE):
        values.pop(spare, None)
        text = json.dumps({"v": _VERSION, **values}, separators=(",", ":"))
        if len(text) <= MAX_BYTES:
            return {METADATA_NAME: text}
    raise ValueError(f"The job {job.task_id} has {len(text)} bytes of options.")


def read_manifest(key: str, metadata: Mapping[str, str]) -> Job | None:
    """The job that an original belongs to, as it was submitted; None if that is not told.

    Args:
        key: of the original.
        metadata: of the original, names in lower case without their prefix.
    """
    try:
        values = dict(json.loads(metadata[METADATA_NAME]))
        job = _job(key, values)
    except (KeyError, TypeError, ValueError):
        return None
    return job if keys.original_key(job.task_id) == key else None


def _job(key: str, values: Mapping[str, Any]) -> Job:
    known = {name: values[name] for name in _FIELDS if name in values}
    return Job(
        **{
            **known,
            "created_at": float(values["created_at"]),
            "expires_at": float(values["expires_at"]),
            "options": dict(values.get("options", {})),
            "priority": Priority(values.get("priority", Priority.NORMAL)),
        },
        original_key=key,
        # Chosen when it is sent.
        queue="",
    )
