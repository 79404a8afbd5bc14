"""Pictures that are fetched from an address that an outsider named."""

import io
from typing import Final

from api.errors import ApiError
from api.submission.sources import Opener
from api.submission.submission import Upload
from api.upload_limit import too_large
from inference.probe import PREFIX_SIZE, identify_format
from tasks.net.client import Client, Fetched
from tasks.net.errors import NetError, UrlTooLargeError
from tasks.owners import Owner

#: All of one fetch, look-ups and redirections included: a client is waiting.
_SECONDS: Final = 20.0


def from_url(name: str, client: Client, max_bytes: int) -> Opener:
    """An opener for addresses; what comes must be a picture, and no larger than is allowed."""

    def open_url(url: str, _owner: Owner) -> Upload:
        try:
            fetched = client.fetch(url, max_bytes=max_bytes, seconds=_SECONDS)
        except UrlTooLargeError:
            # It is cut off at the limit, so how much more it is cannot be told.
            raise too_large(max_bytes + 1, max_bytes, name) from None
        except NetError as error:
            raise ApiError(error.code, f"{name}: {error}", fields={name: str(error)}) from None
        if not fetched.data:
            raise ApiError("empty_image", fields={name: "0 bytes."})
        _require_picture(name, fetched)
        return Upload(io.BytesIO(fetched.data), len(fetched.data), fetched.file_name)

    return open_url


def _require_picture(name: str, fetched: Fetched) -> None:
    if identify_format(fetched.data[:PREFIX_SIZE]) is None:
        kind = fetched.media_type or "something of no declared type"
        sentence = f"The address answered with {kind}, and its bytes are no picture."
        raise ApiError("invalid_image", f"{name}: {sentence}", fields={name: sentence})
