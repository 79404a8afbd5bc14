"""Why a job failed that no picture's fault explains: what its caller is told."""

from typing import Final

from tasks.jobs import JobError

#: Its worker's process died over it too often, or was killed at the time limit.
POISON: Final = JobError(
    "poison", "The image brought its worker down repeatedly; it is not tried again."
)
#: Workers, hosts or servers went away too often while it ran.
LOST: Final = JobError(
    "lost", "The service lost its worker too often while it ran; submit it again.", retryable=True
)
#: Its pictures' time was over before it was done.
EXPIRED: Final = JobError(
    "expired", "The task was not done before its pictures expired.", retryable=True
)
#: Nobody began it before its deadline.
OVERDUE: Final = JobError(
    "deadline_exceeded", "No worker was free before the task's deadline.", retryable=True
)
