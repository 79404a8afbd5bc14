"""Errors of the client: a refusal by the service, no answer at all, a task without a cutout."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from rmbg_client.models import Task


class RmbgError(Exception):
    """Every error of this package."""


class NoAnswerError(RmbgError):
    """The service could not be reached, broke off, or took too long; sending again may help."""


class ServiceError(RmbgError):
    """The service refused a request; each type of its errors is a subclass (`service_errors`).

    Attributes:
        type: the error's stable name, such as `task_not_found`; empty if the answer was not the
            service's own, such as a proxy's.
        status: of HTTP.
        code: the service's number of the error; 0 if the answer was not its own.
        fields: what is wrong with each parameter.
        request_id: for the operator's log.
        retry_after: seconds after which to come again, if the answer said so.
    """

    type: ClassVar[str] = ""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: int = 0,
        fields: Mapping[str, str] | None = None,
        request_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.fields = dict(fields or {})
        self.request_id = request_id
        self.retry_after = retry_after


class NoCutoutError(RmbgError):
    """A task has no cutout: it failed, was canceled or expired, or has not ended yet."""

    def __init__(self, task: "Task") -> None:
        super().__init__(task.error.message if task.error else f"The task is {task.status}.")
        self.task = task


class WaitTimeoutError(RmbgError):
    """A task or batch did not end in time; it goes on in the service.

    Attributes:
        id: of the task or batch, to wait for again.
    """

    def __init__(self, of: str, seconds: float) -> None:
        super().__init__(f"{of} did not end within {seconds:g} s; wait for it again, or cancel it.")
        self.id = of


class InvalidWebhookError(RmbgError):
    """A webhook is not signed by the service, or is too old."""
