"""The keys of all objects in the bucket.

originals/<task>                      the uploaded picture
backgrounds/<task>                    the background picture
results/<task>/<run>.<extension>      the cutout of one run, or a copy of an equal job's
uploads/<upload>/whole, tail-<bytes>  a resumable upload, or the bytes after its last whole part
improvements/<name>                   what callers of remove.bg's `improve` send in
"""

from typing import Final

ORIGINALS: Final = "originals/"
BACKGROUNDS: Final = "backgrounds/"
RESULTS: Final = "results/"
UPLOAD_OBJECTS: Final = "uploads/"
IMPROVEMENTS: Final = "improvements/"
#: All prefixes; the bucket's lifecycle rules cover each of them.
PREFIXES: Final = (ORIGINALS, BACKGROUNDS, RESULTS, UPLOAD_OBJECTS, IMPROVEMENTS)


def original_key(task_id: str) -> str:
    """Return the key of a task's uploaded picture."""
    return f"{ORIGINALS}{task_id}"


def background_key(task_id: str) -> str:
    """Return the key of a task's background picture."""
    return f"{BACKGROUNDS}{task_id}"


def results_prefix(task_id: str) -> str:
    """Return the prefix of the keys of all results of a task."""
    return f"{RESULTS}{task_id}/"


def result_key(task_id: str, token: str, extension: str) -> str:
    """Return the key of one run's result; the end of the lease's token tells the runs apart."""
    return f"{results_prefix(task_id)}{token.rpartition('/')[2]}.{extension}"


def copied_result_key(task_id: str, result: str) -> str:
    """Return the key of a task's copy of another task's result: one key for each such result."""
    return f"{results_prefix(task_id)}{result.rpartition('/')[2]}"


def upload_prefix(upload_id: str) -> str:
    """Return the prefix of the keys of all objects of a resumable upload."""
    return f"{UPLOAD_OBJECTS}{upload_id}/"


def task_id_of_original(original: str) -> str:
    """Return the task of an original's key."""
    return original.removeprefix(ORIGINALS)


def task_id_of_object(key: str) -> str:
    """Return the task of an original, a background or a result."""
    return key.split("/")[1]


def upload_id_of(key: str) -> str:
    """Return the upload of an object below `uploads/`."""
    return key.removeprefix(UPLOAD_OBJECTS).partition("/")[0]
