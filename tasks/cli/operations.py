"""Changes of jobs that several commands make, to one record or to many at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tasks.cli.output import CommandOutput
from tasks.errors import QueueUnavailableError, UnreadableRecordError
from tasks.jobs.model import Job
from tasks.runtime import Runtime


def send_requeued(runtime: Runtime, job: Job) -> None:
    """Send a job that was requeued at once; failing that, the reconciler does."""
    try:
        queue = runtime.router.choose(job.model, job.priority, excluded_worker=job.excluded_worker)
        runtime.dispatcher.send_again(job.task_id, queue=queue)
    except QueueUnavailableError:
        # The record says that it is due: nothing is lost.
        return


#: What a change answers: its own word for success, a reason against it, or that there is no record.
MISSING_NOTE = "missing"


@dataclass(slots=True)
class BulkChange:
    """What came of one change to several jobs.

    Attributes:
        done: the word for it, such as `requeued`.
        rule: which jobs can be changed so, in a sentence.
        changed: ids.
        refused: ids, with what stood against it.
        unknown: ids without a record.
        unreadable: ids whose record cannot be read, with what to do.
        find: the command that lists ids.
    """

    done: str
    rule: str
    changed: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    find: str = "jobs list"

    def apply(self, task_ids: Sequence[str], change: Callable[[str], str]) -> "BulkChange":
        """Change each, in order; an id that is named twice counts once."""
        for task_id in dict.fromkeys(task_ids):
            try:
                outcome = change(task_id)
            except UnreadableRecordError as error:
                self.unreadable[task_id] = str(error)
                continue
            if outcome == self.done:
                self.changed.append(task_id)
            elif outcome == MISSING_NOTE:
                self.unknown.append(task_id)
            else:
                self.refused[task_id] = outcome
        return self

    def answer(self, *, nothing: str = "", **facts: object) -> CommandOutput:
        """What to print.

        Args:
            nothing: said, and no failure, when there was no job to change.
            facts: more for the JSON document.
        """
        reasons = {**self.refused, **dict.fromkeys(self.unreadable, UnreadableRecordError.code)}
        refused = [{"task_id": each, "reason": why} for each, why in reasons.items()]
        return CommandOutput(
            {self.done: self.changed, "refused": refused, "unknown": self.unknown, **facts},
            lines=[f"{self.done}  {task_id}" for task_id in self.changed],
            notes=self._notes() or ([] if self.changed else [nothing]),
            failed=bool(reasons or self.unknown),
        )

    def _notes(self) -> list[str]:
        refused = [f"{each}: {reason}. {self.rule}" for each, reason in self.refused.items()]
        unknown = [
            f"{each}: unknown. Find ids with: celery -A tasks.app {self.find}"
            for each in self.unknown
        ]
        return [*refused, *unknown, *self.unreadable.values()]
