"""Who is to be told of an end."""

import structlog

from api.errors import ApiError
from api.settings import ApiSettings
from tasks.net.errors import UrlNotAllowedError, UrlUnreachableError
from tasks.net.guard import Guard
from tasks.owners import Owner

_log = structlog.get_logger(__name__)


def receiver(url: str | None, owner: Owner, guard: Guard, settings: ApiSettings) -> str | None:
    """The address that webhooks go to: the one asked for, or the owner's own.

    Raises:
        ApiError: `invalid_parameter`: it may not be called, or nothing could be signed.
    """
    if url is None:
        return owner.webhook_url
    try:
        guard.check(url)
    except UrlUnreachableError:
        # The name service may know it by then; each attempt looks again.
        _log.info("submit.receiver_unknown")
    except UrlNotAllowedError as error:
        raise _refused(str(error)) from None
    if owner.anonymous and settings.webhook_secret is None:
        raise _refused(
            "This service signs no webhooks: its operator has not set RMBG_WEBHOOK_SECRET."
        )
    return url


def _refused(sentence: str) -> ApiError:
    fields = {"webhook_url": sentence}
    return ApiError("invalid_parameter", f"webhook_url: {sentence}", fields=fields)
