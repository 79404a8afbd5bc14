"""Why a command did nothing: each text says what to do."""

from typing import ClassVar

from tasks.errors import TaskError


class CommandError(TaskError):
    """Root of what the commands refuse."""

    code: ClassVar[str] = "command_refused"


class NotConfirmedError(CommandError):
    """The question was not answered with yes."""

    code = "not_confirmed"


class UnknownQueueError(CommandError):
    """No queue of jobs has that name."""

    code = "unknown_queue"


class UnknownWorkerError(CommandError):
    """No worker has that name."""

    code = "unknown_worker"


class UnknownJobError(CommandError):
    """No record has that id."""

    code = "unknown_job"


class UnknownDeliveryError(CommandError):
    """No webhook has that id."""

    code = "unknown_webhook"
