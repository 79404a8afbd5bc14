"""Waiting for a task's end: `Prefer: wait=N` (RFC 7240) and server-sent events."""

import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from flask import Request

from api.callers import current_caller
from api.errors import ApiError
from api.places import Places
from tasks.errors import QueueUnavailableError
from tasks.jobs.job import Job, Status
from tasks.jobs.routing import expected_wait
from tasks.runtime import Runtime

#: How often a waiting request reads the record, beside each time that an end is published.
_LOOK_SECONDS: Final = 0.5
#: Where many requests wait, how often all of a process together do.
_LOOKS_PER_SECOND: Final = 32
#: A stream looks up positions so seldom that each of its queued tasks costs one in this time.
_POSITION_SECONDS: Final = 0.1
#: Requests of one process that may wait for a task's end at once, half of them of one caller. Each
#: holds a thread, and there are more threads.
WAITING_REQUESTS: Final = 128

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
_HEARTBEAT: Final = ": still here\n\n"
#: The first line of a stream: how long a browser waits, in ms, before it connects again.
_BEGIN: Final = "retry: 3000\n\n"
#: The last line for who finds no place to wait in. An error would end the connection for good;
#: after this a browser comes again.
_NO_PLACE: Final = ": too many requests of yours wait\n\n"
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
#: What a stream has shown last of a job: its state, its position, and whether a worker serves it.
_Shown = tuple[Status, int, bool]


@dataclass(frozen=True, slots=True)
class TaskWaiter:
    """Lets requests wait for the end of a task.

    Attributes:
        runtime: has the records, and watches for their ends.
        places: one for each request that may wait at once.
        ending: set when this process is asked to end. Each request that waits is then answered with
            its task's present state, within 0.5 s.
    """

    runtime: Runtime
    places: Places = field(default_factory=lambda: Places(WAITING_REQUESTS))
    ending: threading.Event = field(default_factory=threading.Event)

    def wait(self, job: Job, seconds: float) -> tuple[Job | None, bool]:
        """Wait until a job is final, the time is up, or this process is asked to end.

        Returns:
            The job then, None if it was erased; and whether there was a place to wait in.
        """
        deadline = time.monotonic() + seconds
        with self.places.hold(current_caller()) as placed:
            if not placed:
                return job, False
            with self.runtime.watcher.watch(job.task_id) as wait:
                while True:
                    present = self.runtime.job_store.get(job.task_id)
                    left = deadline - time.monotonic()
                    gives_up = left <= 0 or self.ending.is_set()
                    if present is None or present.status.final or gives_up:
                        return present, True
                    self._pause(wait, left)

    def _pause(self, wait: Callable[[float], bool], longest: float = math.inf) -> None:
        """Wait for an end to be published, or until the record is to be read again."""
        pause = max(_LOOK_SECONDS, self.places.taken / _LOOKS_PER_SECOND)
        end = time.monotonic() + min(longest, pause)
        while not self.ending.is_set() and (left := end - time.monotonic()) > 0:
            if wait(min(_LOOK_SECONDS, left)):
                return

    def refusal(self) -> ApiError:
        """Return the error for a request that would wait and found no place."""
        sentence = (
            f"{self.places.share} requests of yours may wait at once, and fewer while many others "
            "do. Wait for fewer tasks at once, ask again after `Retry-After`, or give a "
            "`webhook_url`."
        )
        return ApiError("too_many_waiting", sentence)

    def events(self, job: Job, render: Render) -> Iterator[str] | str:
        """Return the event of a job's present state, and of each later one until it is final.

        The stream ends before that if this process is asked to end; a browser connects again, to
        another. It also ends once its caller's key is revoked, within 10 s and without another
        event. While its caller has no place to wait in, the present state is the only one.

        Args:
            job: as it is now.
            render: makes the data of an event, as JSON.

        Returns:
            The whole of a stream that ends at once; else an iterator, which the caller must close,
            as that gives its place back.
        """
        begin = f"{_BEGIN}{_event(job, render)}"
        return begin if job.status.final else self._stream(begin, self._follow(job, render))

    def _stream(self, begin: str, later: Iterator[str]) -> Iterator[str] | str:
        """Return an iterator that holds a place; if none is free, the whole stream as one text."""
        caller = current_caller()
        if not self.places.take(caller):
            return f"{begin}{_NO_PLACE}"
        stream = self._pieces(caller, begin, later)
        next(stream)  # from here on, closing it gives the place back
        return stream

    def _pieces(self, caller: str, begin: str, later: Iterator[str]) -> Iterator[str]:
        try:
            yield ""
            yield begin
            # Without Redis, the browser connects again, and gets the state then.
            with suppress(QueueUnavailableError):
                yield from later
        finally:
            self.places.give_back(caller)

    def _follow(self, job: Job, render: Render) -> Iterator[str]:
        known, written = job, time.monotonic()
        with self.runtime.watcher.watch(job.task_id) as wait:
            while not self.ending.is_set():
                present = self.runtime.job_store.get(job.task_id)
                if present is None:
                    return  # erased
                changed = present.status is not known.status
                if changed or time.monotonic() - written >= _HEARTBEAT_SECONDS:
                    if self._is_revoked(job.owner):
                        return
                    known, written = present, time.monotonic()
                    yield _event(present, render) if changed else _HEARTBEAT
                if present.status.final:
                    return
                self._pause(wait)

    def events_of(self, jobs: Sequence[Job], render: Render) -> Iterator[str] | str:
        """Return an event of the present state of each job, and of each change of what is shown.

        That is its state, its position, and whether any worker serves its model. The stream ends
        once all are final, or erased, or this process is asked to end. While their caller has no
        place to wait in, the present states are the only ones.

        Args:
            jobs: as they are now, all of one owner.
            render: makes the data of an event, as JSON.

        Returns:
            As `events`.
        """
        shown = dict[str, _Shown]()
        begin = "".join((_BEGIN, *self._changes(jobs, shown, render)))
        left = [each for each in jobs if not each.status.final]
        return self._stream(begin, self._follow_all(left, shown, render)) if left else begin

    def _is_revoked(self, owner_id: str) -> bool:
        """Return whether an owner has no valid API key any more.

        A stream lasts as long as its jobs, and the key may be revoked meanwhile.
        """
        owner = self.runtime.api_keys.get(owner_id)
        if owner is None:  # Redis has lost its keys
            return True
        return owner.revoked

    def _follow_all(
        self, jobs: Sequence[Job], shown: dict[str, _Shown], render: Render
    ) -> Iterator[str]:
        owner, left = jobs[0].owner, [each.task_id for each in jobs]
        written, due = time.monotonic(), 0.0
        with self.runtime.watcher.watch(*left) as wait:
            while left and not self.ending.is_set():
                jobs = self.runtime.job_store.get_many(left)
                left = [each.task_id for each in jobs if not each.status.final]
                positions = time.monotonic() >= due
                if positions:
                    queued = sum(each.status is Status.QUEUED for each in jobs)
                    due = time.monotonic() + _POSITION_SECONDS * queued
                events = list(self._changes(jobs, shown, render, positions=positions))
                if events or time.monotonic() - written >= _HEARTBEAT_SECONDS:
                    if self._is_revoked(owner):
                        return
                    written = time.monotonic()
                    yield from events or [_HEARTBEAT]
                if left:
                    self._pause(wait)

    def _changes(
        self,
        jobs: Sequence[Job],
        shown: dict[str, _Shown],
        render: Render,
        *,
        positions: bool = True,
    ) -> Iterator[str]:
        """Yield an event for each job of which something else was shown last.

        Args:
            jobs: as they are now.
            shown: what was shown of each; it is kept up to date.
            render: makes the data of an event.
            positions: look up those of jobs whose state is the one shown last, too.
        """
        due = [
            each
            for each in jobs
            if positions or shown.get(each.task_id, (None,))[0] is not each.status
        ]
        anyone = any(each.status is Status.QUEUED for each in due)
        workers = self.runtime.registry.workers() if anyone else []
        for job in due:
            queued = job.status is Status.QUEUED
            position = self.runtime.job_store.position(job) if queued else 0
            seconds = expected_wait(job, position, workers) if queued else None
            present = (job.status, position, seconds is not None)
            if shown.get(job.task_id) != present:
                shown[job.task_id] = present
                expected = None if seconds is None else round(seconds, 1)
                yield _event(job, render, position=position, expected_seconds=expected)


def _event(job: Job, render: Render, **more: float | None) -> str:
    data = json.dumps({**render(job), **more}, separators=(",", ":"))
    # Not used here, since each connection begins with the present state; browsers want one.
    return f"id: {job.status.value}\nevent: status\ndata: {data}\n\n"
