"""The one place of `deploy.local` that looks at the process's surroundings."""

import os
import sysconfig
from collections.abc import Mapping
from pathlib import Path


def inherited_environment() -> Mapping[str, str]:
    """What a child process starts from: everything that this one was given."""
    return dict(os.environ)


def scripts_folder() -> Path:
    """Where the console scripts of this installation lie, whatever PATH says."""
    return Path(sysconfig.get_path("scripts"))


def core_count() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
