"""What torch.compile made, kept in a folder between starts of a worker.

The folder holds code for this machine: whoever may write there may run code as the worker. It is
made for its owner alone, and a folder that others own, may write to or may replace is not used.
"""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from os import getuid
from pathlib import Path
from tempfile import TemporaryDirectory

from torch._inductor.runtime.cache_dir_utils import temporary_cache_dir

_ROOT = 0
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


@contextmanager
def compiler_folder(folder: Path | None) -> Iterator[bool]:
    """Have torch's compiler keep its products there, and take what an earlier start kept.

    Torch names each product by all that it depends on: the graph, torch itself, the device. Where
    the folder won't do, a passing one of our own is used: torch's default has a name that anybody
    may have taken before.

    Yields:
        Whether the products are kept; if not, the next start compiles again.
    """
    if folder is not None and _is_private(folder):
        with temporary_cache_dir(str(folder.resolve())):
            yield True
    else:
        with TemporaryDirectory(prefix="rmbg-compiled-") as own, temporary_cache_dir(own):
            yield False


def _is_private(folder: Path) -> bool:
    """Is it ours, and nobody else's to write to or to replace? It is made if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        own, *above = (path.stat() for path in (folder.resolve(), *folder.resolve().parents))
    except OSError:
        return False
    ours = own.st_uid == getuid() and not own.st_mode & _OTHERS_MAY_WRITE
    return ours and all(
        state.st_uid in {getuid(), _ROOT}
        and (not state.st_mode & _OTHERS_MAY_WRITE or state.st_mode & stat.S_ISVTX)
        for state in above
    )
