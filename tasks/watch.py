"""Waits for a job's end without asking for it over and over."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from redis import Redis

from tasks import keys
from tasks.connection import redis_errors


class Watcher:
    """Listens to what the scripts publish when a job becomes final."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    @contextmanager
    def watch(self, task_id: str) -> Iterator[Callable[[float], bool]]:
        """Listen from here on; the block gets a function that waits so many seconds for the end.

        It returns True when the job became final meanwhile. A job that was final before will not
        be told again: look at its record once the block has begun.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        with redis_errors():
            listener = self._client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call] # redis leaves it so
            try:
                listener.subscribe(keys.done_channel(task_id))

                def wait(seconds: float) -> bool:
                    with redis_errors():
                        return listener.get_message(timeout=seconds) is not None

                yield wait
            finally:
                listener.close()
