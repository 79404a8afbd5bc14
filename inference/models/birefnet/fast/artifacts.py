"""What torch.compile made, kept in a folder between starts of a worker.

The folder holds code for this machine: whoever may write there may run code as the worker. It is
made for its owner alone, and a folder that others own or may write to is not used.
"""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from os import getuid
from pathlib import Path

from torch._inductor.runtime.cache_dir_utils import temporary_cache_dir


@contextmanager
def compiler_folder(folder: Path | None) -> Iterator[bool]:
    """Have torch's compiler keep its products there, and take what an earlier start kept.

    Torch names each product by all that it depends on: the graph, torch itself, the device.

    Yields:
        Whether the folder is used; if not, the next start compiles again.
    """
    if folder is None or not _is_private(folder):
        yield False
        return
    with temporary_cache_dir(str(folder)):
        yield True


def _is_private(folder: Path) -> bool:
    """Is it ours, and nobody else's to write to? It is made if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        state = folder.stat()
    except OSError:
        return False
    return state.st_uid == getuid() and not state.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
