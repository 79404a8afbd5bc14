"""What the tests of the celery commands share."""

import json
from collections.abc import Callable
from typing import Any, Final

from click.testing import Result

from tasks.jobs.store import MAX_CRASHES, JobStore

QUEUE: Final = "model.u2netp"
WORKER: Final = "gpu0@testhost"

#: Runs a command with arguments.
Run = Callable[..., Result]
#: Makes a job or delivery in a state, and returns its id.
Make = Callable[..., str]


def crash(store: JobStore, task_id: str) -> None:
    """Crash a worker over a job until the job is poison."""
    for _ in range(MAX_CRASHES):
        store.claim(task_id, token="w/1/x", worker="w")
        store.crash(task_id, holder="w/1/")


def json_of(result: Result) -> dict[str, Any]:
    """Return what a command printed, which is one JSON document and nothing else."""
    return dict(json.loads(result.stdout))
