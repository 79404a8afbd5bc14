"""The thread that sees a worker end is there until the very last moment of its process."""

import subprocess
import sys
from itertools import islice

from tasks.redis_client import connect

_WORKER = "gpu0@shutdown"
#: `Settings.load` is native code: an interpreter that ends while a thread is in it aborts. Here it
#: would do so in one run of many; so it is taken away, and any call of it from there shows.
_PROGRAM = """
import sys, threading
from tasks.runtime import Runtime
from tasks.settings import Settings
from tasks.worker import shutdown

shutdown._POLL_SECONDS = 0.0
worker, url = sys.argv[1:]
runtime = Runtime(Settings.load(redis_url=url, shutdown_seconds=60))
Settings.load = None
threading.Thread(target=shutdown.enforce_grace_period, args=(worker, runtime), daemon=True).start()
input()
"""


def test_it_never_breaks_the_process_off_that_ends(redis_url: str) -> None:
    command = [sys.executable, "-c", _PROGRAM, _WORKER, redis_url]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with (
        connect(redis_url, timeout=30) as client,
        client.monitor() as monitor,
        subprocess.Popen(command, text=True, **pipes) as process,
    ):
        try:
            asked = (each for each in monitor.listen() if _WORKER in each["command"])
            list(islice(asked, 10))  # it looks again and again
            out, err = process.communicate("\n", timeout=30)
        finally:
            process.kill()
    assert (process.returncode, err) == (0, "")
    assert "worker.ends" in out
