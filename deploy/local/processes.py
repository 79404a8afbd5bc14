"""Starting processes so that they can be ended: a group of their own, tied to the parent."""

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from deploy.local.services import Service
from deploy.local.settings import inherited_environment

#: Run by a bare Python in the new process before the real program takes its place: asks Linux to
#: kill it when the parent dies, even by kill -9. (`preexec_fn` would do the same, but may
#: deadlock in a parent that has threads.)
_TIE: Final = """\
import ctypes, os, signal, sys
parent, command = int(sys.argv[1]), sys.argv[2:]
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
if os.getppid() != parent:
    sys.exit("its parent is gone")
os.execv(command[0], command)
"""


def command_line(service: Service) -> tuple[str, ...]:
    """The command that starts a service, on Linux tied to this process's life."""
    if sys.platform != "linux":
        return service.command
    return (sys.executable, "-ISc", _TIE, str(os.getpid()), *service.command)


def environment(service: Service) -> Mapping[str, str]:
    """This process's environment with the service's own on top."""
    return {**inherited_environment(), "PYTHONUNBUFFERED": "1", **service.env}


def signal_group(group: int, number: signal.Signals) -> bool:
    """Send a signal to every process of a group; False if there is none left."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        # macOS says so of a group in which only zombies are left.
        return False
    return True


def end_group(group: int, *, seconds: float = 2.0) -> None:
    """Kill whatever is left of a group, and wait for it to be gone (it may hold a port)."""
    end = time.monotonic() + seconds
    while signal_group(group, signal.SIGKILL) and time.monotonic() < end and _lives(group):
        time.sleep(0.01)


def _lives(group: int) -> bool:
    """Whether a group has a process that is more than a zombie.

    Orphans stay zombies until the system's first process, which takes its time, has reaped them.
    """
    if sys.platform != "linux":
        return True
    return any(_group_and_state(each) == (group, True) for each in Path("/proc").glob("[0-9]*"))


def _group_and_state(process: Path) -> tuple[int, bool]:
    """A process's group, and whether it still runs; from proc(5), `stat`."""
    try:
        # The name in parentheses may contain anything; state, parent and group follow it.
        state, _, group, *_ = (process / "stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return 0, False
    return int(group), state not in "ZX"
