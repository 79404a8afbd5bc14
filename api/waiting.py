"""Waiting for a task's end: `Prefer: wait=N` (RFC 7240) and server-sent events."""

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from flask import Request

from api.services import LOOK_SECONDS, Services
from tasks.errors import QueueUnavailableError
from tasks.jobs.job import Job

_WAIT: Final = re.compile(r"wait\s*=\s*\"?(\d{1,6})\"?\Z", re.IGNORECASE)
#: Longest that one request may wait for a task's end.
MAX_WAIT_SECONDS: Final = 60


def preferred_wait(request: Request) -> int:
    """Return the seconds that the client would wait for the result, `MAX_WAIT_SECONDS` at most.

    A preference that cannot be read is ignored, as RFC 7240 demands: 0 seconds.
    """
    for line in request.headers.getlist("Prefer"):
        for preference in line.split(","):
            # Parameters of a preference follow a semicolon; none is known.
            match = _WAIT.match(preference.partition(";")[0].strip())
            if match:
                return min(int(match[1]), MAX_WAIT_SECONDS)
    return 0


#: Proxies cut off a silent connection, and only writing shows that a client has gone.
_HEARTBEAT_SECONDS: Final = 10.0
#: How long a browser waits before it connects again.
_RETRY_MS: Final = 3000
#: An event's schema, for the documentation.
EVENT: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "description": "Need not be kept."},
        "event": {"type": "string", "enum": ["status"]},
        "data": {"type": "string", "description": "JSON: `data` of `GET /tasks/{task_id}`."},
    },
    "required": ["event", "data"],
    "example": {"id": "queued", "event": "status", "data": '{"task_id":"rm-20261122-…",…}'},
}

Render = Callable[[Job], dict[str, Any]]


def stream_events(services: Services, job: Job, render: Render) -> Iterator[str]:
    """Yield an event for a job's present state and for each later one, until it is final.

    While no place is free to wait in, the present state is the only one. The caller must close the
    iterator, which gives its place back.

    Args:
        services: the API's dependencies.
        job: as it is now.
        render: makes the data of an event, as JSON.
    """
    yield f"retry: {_RETRY_MS}\n\n"
    yield _event(job, render)
    if job.status.final or not services.waiting.acquire(blocking=False):
        return
    try:
        yield from _follow(services, job, render)
    except QueueUnavailableError:
        # The browser connects again, and gets the state then.
        return
    finally:
        services.waiting.release()


def _follow(services: Services, job: Job, render: Render) -> Iterator[str]:
    known, written = job, time.monotonic()
    with services.runtime.watcher.watch(job.task_id) as wait:
        while True:
            present = services.runtime.job_store.get(job.task_id)
            if present is None:
                return  # erased
            if present.status is not known.status:
                known, written = present, time.monotonic()
                yield _event(present, render)
            if present.status.final:
                return
            if time.monotonic() - written >= _HEARTBEAT_SECONDS:
                written = time.monotonic()
                yield ": still here\n\n"
            wait(LOOK_SECONDS)


def _event(job: Job, render: Render) -> str:
    data = json.dumps(render(job), separators=(",", ":"))
    # Not used here, since each connection begins with the present state; browsers want one.
    return f"id: {job.status.value}\nevent: status\ndata: {data}\n\n"
