"""`POST /v1.0/improve`: pictures that callers give so that a model may learn from them."""

import secrets

from api.removebg.form import Form
from api.removebg.sources import Pictures, source_name
from tasks.storage import ObjectStore

_PREFIX = "improvements/"


def take_improvement(form: Form, pictures: Pictures, objects: ObjectStore, *, keep: bool) -> str:
    """Accept a picture, and store it only where the operator wants that.

    Returns:
        The contribution's id.

    Raises:
        RemoveBgError: there is no picture, or it cannot be used.
        StoreUnavailableError: it could not be kept.
    """
    contribution = secrets.token_hex(16)
    if not keep and source_name(form) == "image_url":
        return contribution  # nothing is fetched that nobody will look at
    upload = pictures.image(form).upload
    if keep:
        objects.put(
            f"{_PREFIX}{contribution}", upload.stream, upload.length, "application/octet-stream"
        )
    return contribution
