"""What `rmbg up` says when it cannot go on; every text is one line for people."""

from typing import ClassVar


class StackError(Exception):
    """Root of everything that `deploy.local` raises on purpose."""

    code: ClassVar[str] = "stack_failed"
    #: What `rmbg up` ends with.
    exit_code: ClassVar[int] = 1


class SetupError(StackError):
    """Something here has to be put right first: a folder, a port, a missing file."""

    code = "setup_wrong"
    exit_code = 2


class NotReadyError(StackError):
    """A process does not answer yet, or not as it should."""

    code = "not_ready"


class StartError(StackError):
    """A process did not become ready in time."""

    code = "start_failed"


class SelfCheckError(StackError):
    """Everything runs, but the sample photo did not come back as a cutout."""

    code = "self_check_failed"
