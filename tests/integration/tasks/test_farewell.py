"""The thread that sees a worker end is there until the very last moment of its process."""

import subprocess
import sys

_PROGRAM = """
import sys, threading, time
from tasks.settings import Settings
from tasks.worker import farewell

farewell._LOOK_SECONDS = 0.0
settings = Settings.load(redis_url=sys.argv[1], shutdown_seconds=30)
# It is native code: an interpreter that ends while a thread is in it aborts, but rarely enough to
# be missed here.
Settings.load = None
threading.Thread(target=farewell.bid_farewell, args=("gpu0@h", settings), daemon=True).start()
time.sleep(0.2)
"""


def test_it_never_breaks_the_process_off_that_ends(redis_url: str) -> None:
    end = subprocess.run(
        [sys.executable, "-c", _PROGRAM, redis_url], capture_output=True, text=True, check=False
    )
    assert (end.returncode, end.stderr) == (0, "")
    assert "worker.ends" in end.stdout
