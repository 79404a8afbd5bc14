"""Which queue a job goes to: a GPU's own while it is nearly idle, else its model's shared one.

A worker looks into its own queue before the shared one. So none is given what would pass others of
its urgency that wait in the shared one: while jobs keep coming, these might wait for ever.
"""

from typing import Final, Literal

from redis import Redis

from tasks import keys, names
from tasks.connection import redis_errors
from tasks.errors import QueueUnavailableError
from tasks.fleet import Fleet, Worker
from tasks.jobs import Priority

Routing = Literal["gpu", "shared"]

#: Jobs that a worker is given before it asks for them: one that runs and one that waits. More
#: would wait behind a slow picture while another GPU is idle.
MAX_BOUND: Final = 2


class Router:
    """Chooses among the live workers that serve a job's model."""

    def __init__(self, client: Redis, fleet: Fleet, *, routing: Routing = "gpu") -> None:
        self._client = client
        self._fleet = fleet
        self._routing = routing

    def choose(self, model: str, priority: Priority, *, excluded_worker: str | None = None) -> str:
        """The queue of the worker that would begin it soonest; the shared one if none is free."""
        shared = names.model_queue(model)
        if self._routing == "shared":
            return shared
        try:
            if self._waits(shared, priority):
                return shared
            return self._soonest(model, priority, excluded_worker) or shared
        except QueueUnavailableError:
            return shared

    def _waits(self, queue: str, priority: Priority) -> bool:
        """Does any job of that urgency, or of more, wait in a queue?"""
        with redis_errors(), self._client.pipeline() as pipe:
            for step in Priority:
                if step <= priority:
                    pipe.zcard(keys.sent_key(f"{queue}|{int(step)}"))
            return any(pipe.execute())

    def _soonest(self, model: str, priority: Priority, excluded_worker: str | None) -> str | None:
        candidates = [
            worker
            for worker in self._fleet.workers()
            if worker.usable
            and worker.model == model
            and worker.queue
            and worker.name != excluded_worker
        ]
        waits = [
            (self._wait(worker, lengths, priority), worker.queue)
            for worker, lengths in zip(candidates, self._lengths(candidates), strict=True)
            if worker.running + sum(lengths.values()) < MAX_BOUND
        ]
        return min(waits)[1] if waits else None

    def _wait(self, worker: Worker, lengths: dict[Priority, int], priority: Priority) -> float:
        """Expected seconds until the worker would begin: what it runs, and what goes before."""
        ahead = sum(length for step, length in lengths.items() if step <= priority)
        return (worker.running + ahead) * worker.seconds

    def _lengths(self, workers: list[Worker]) -> list[dict[Priority, int]]:
        """How many jobs wait in each worker's own queue, by priority."""
        if not workers:
            return []
        with redis_errors(), self._client.pipeline() as pipe:
            for worker in workers:
                for step in Priority:
                    pipe.zcard(keys.sent_key(f"{worker.queue}|{int(step)}"))
            counts = iter(pipe.execute())
        return [{step: next(counts) for step in Priority} for _ in workers]
