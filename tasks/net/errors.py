"""Why an address was not called, or what came of calling it."""

from tasks.errors import TaskError


class NetError(TaskError):
    """Root of the package. The texts are fit for outsiders: they name no inner address."""

    code = "url_unreachable"


class UrlNotAllowedError(NetError):
    """The address is malformed, or leads where outsiders may not send this service."""

    code = "url_not_allowed"


class UrlUnreachableError(NetError):
    """Its host has no address, does not answer, or breaks off."""

    code = "url_unreachable"


class UrlTimeoutError(NetError):
    """It took longer than was allowed."""

    code = "url_timeout"


class UrlTooLargeError(NetError):
    """It sent more bytes than were allowed."""

    code = "url_too_large"
