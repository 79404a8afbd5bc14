"""Record which of this project's functions run in a process; loaded there as `sitecustomize`.

`benchmarks.request_files` puts a copy of this file on the path of the processes that it starts.
What is recorded depends on the first byte of the file `phase` in the folder `CALL_TRACE_FOLDER`:
nothing (off), or each chain of calls once (idle, request). One JSON object a line is written to
`<pid>.jsonl` in that folder, at once, so that nothing is lost when a process is killed.
"""

import json
import mmap
import os
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, Final

OFF, IDLE, REQUEST = 0, 1, 2
ROOMS: Final = frozenset({"api", "tasks", "inference", "deploy"})


class CallTracer:
    """A profile function for `sys.setprofile`: it writes calls of our functions to a file."""

    def __init__(self, folder: Path) -> None:
        """Map the phase's file of `folder` into memory, so that reading it costs no system call."""
        self._folder = folder
        with (folder / "phase").open("rb") as file:
            self._phase = mmap.mmap(file.fileno(), 1, access=mmap.ACCESS_READ)
        self._seen: set[object] = set()

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """Record a call, unless tracing is off or the function is not ours."""
        phase = self._phase[0]
        if phase == OFF or event != "call":
            return
        if _function(frame) is None:
            return
        chain = _chain(frame)
        if chain and (phase, chain) not in self._seen:
            self._seen.add((phase, chain))
            self._write({"phase": phase, "at": time.monotonic(), "chain": chain})

    def _write(self, line: dict[str, Any]) -> None:
        # The process id is asked for each time, because gunicorn forks.
        with (self._folder / f"{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps({**line, "arguments": sys.orig_argv}) + "\n")


def _function(frame: FrameType) -> tuple[str, str] | None:
    """The module and name of a frame's function; None if it is not one of this project's."""
    module = str(frame.f_globals.get("__name__", ""))
    if module.partition(".")[0] not in ROOMS:
        return None
    return module, frame.f_code.co_qualname


def _chain(frame: FrameType) -> tuple[tuple[str, str], ...]:
    """Our functions on the stack, innermost first; nothing while a module is being imported."""
    chain = []
    current: FrameType | None = frame
    while current is not None:
        function = _function(current)
        if function is not None:
            if function[1] == "<module>":
                return ()
            chain.append(function)
        current = current.f_back
    return tuple(chain)


if __name__ == "sitecustomize" and "CALL_TRACE_FOLDER" in os.environ:
    tracer = CallTracer(Path(os.environ["CALL_TRACE_FOLDER"]))
    threading.setprofile(tracer)
    sys.setprofile(tracer)
