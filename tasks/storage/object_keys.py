"""The keys of all objects in the bucket."""

from typing import Final

#: Where the uploaded pictures lie in the bucket.
ORIGINALS: Final = "originals/"

#: Where the pictures behind subjects lie, and the cutouts.
BACKGROUNDS: Final = "backgrounds/"

RESULTS: Final = "results/"

#: Where uploads in pieces lie in the bucket.
UPLOAD_OBJECTS: Final = "uploads/"


def original_key(task_id: str) -> str:
    """The uploaded picture, as it came."""
    return f"{ORIGINALS}{task_id}"


def copied_result_key(task_id: str, result: str) -> str:
    """Where a job keeps its copy of another job's result: one place for each such result."""
    return f"{results_prefix(task_id)}{result.rpartition('/')[2]}"


def background_key(task_id: str) -> str:
    """The picture that is put behind the subject, as it came."""
    return f"{BACKGROUNDS}{task_id}"


def task_id_of_original(original: str) -> str:
    """The inverse of `original_key`."""
    return original.removeprefix(ORIGINALS)


def task_id_of_object(key: str) -> str:
    """The task that an original, a background or a result belongs to."""
    return key.split("/")[1]


def result_key(task_id: str, token: str, extension: str) -> str:
    """The cutout of one run; the end of the lease's token keeps two runs' objects apart."""
    return f"{results_prefix(task_id)}{token.rpartition('/')[2]}.{extension}"


def results_prefix(task_id: str) -> str:
    """Beginning of the keys of all results of a job."""
    return f"{RESULTS}{task_id}/"


def upload_prefix(upload_id: str) -> str:
    """Beginning of the keys of all objects of an upload in pieces."""
    return f"{UPLOAD_OBJECTS}{upload_id}/"


def upload_id_of(key: str) -> str:
    """The upload that an object below `UPLOADED` belongs to."""
    return key.removeprefix(UPLOAD_OBJECTS).partition("/")[0]
