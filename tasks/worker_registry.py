"""The worker registry: which workers are alive, ready, drained or busy, as Redis knows them."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from redis import Redis
from redis.client import Pipeline

from inference.errors import ModelError
from inference.models.registry import get_spec
from tasks import redis_keys
from tasks.redis_client import redis_errors, server_problem

#: Interval of a worker's heartbeat, and how long it counts as alive after one.
HEARTBEAT_SECONDS: Final = 2.0
ALIVE_SECONDS: Final = 6.0
#: How long the start of a child process is remembered.
STARTS_SECONDS: Final = 600.0
#: A worker that has been silent for longer is no longer reported as missing.
_MISSED_SECONDS: Final = 24 * 3600.0
#: Its record is kept for longer, so that a drained GPU keeps its faults.
_RECORD_SECONDS: Final = 7 * 24 * 3600
#: The assumed duration of a job on a worker that has not finished one yet.
DEFAULT_JOB_SECONDS: Final = 1.0
#: Consecutive faults after which a GPU is drained.
MAX_FAULTS: Final = 5
_DRAIN_REASON: Final = "faults in a row"


@dataclass(frozen=True, slots=True)
class Worker:
    """What the registry knows of one worker.

    Attributes:
        name: Celery's name of it, `gpu0@host`.
        queue: its own queue; empty if it has none.
        model: the name of the model that it serves.
        revision: SHA-256 of the weights that it has loaded; empty if it has not loaded any.
        pid: of the child process that has the model.
        seconds: a running mean of what a job takes.
        running: jobs that it runs, 0 or 1.
        alive: its last heartbeat counts.
        ready: its model's last answer counts.
        drained: why it takes no jobs; empty if it is not drained.
        path: its model's execution path; empty if the model has only one.
        path_reason: why it is not a faster one; empty if it is the fastest.
        resident: bytes of memory that its processes hold; 0 if it does not say.
        gpu_used: bytes of its GPU's memory that are in use, by anyone.
        gpu_total: all of its GPU's memory, in bytes; 0 without a GPU, or if it does not say.
    """

    name: str
    queue: str = ""
    model: str = ""
    revision: str = ""
    pid: int = 0
    seconds: float = DEFAULT_JOB_SECONDS
    running: int = 0
    alive: bool = False
    ready: bool = False
    drained: str = ""
    path: str = ""
    path_reason: str = ""
    resident: int = 0
    gpu_used: int = 0
    gpu_total: int = 0

    @property
    def drained_by(self) -> str:
        """Return who drained it: `service` after consecutive faults, else `operator`."""
        return "service" if _DRAIN_REASON in self.drained else "operator"

    @property
    def usable(self) -> bool:
        """Return whether it takes jobs now."""
        return self.alive and self.ready and not self.drained


class WorkerRegistry:
    """Reads and writes it; each method raises `QueueUnavailableError` if Redis does not answer."""

    def __init__(self, client: Redis, *, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._clock = clock

    def now(self) -> float:
        """Return the time by which workers live: that of Redis, outside of tests."""
        return self._clock()

    def server_problem(self) -> str:
        """Return why no worker can use this Redis; empty if one can."""
        with redis_errors():
            return server_problem(self._client)

    def record_heartbeat(self, name: str, **facts: str | float) -> str:
        """Record that a worker's parent process is alive, and what is known of the worker.

        Returns:
            The fact `instance` of the heartbeat before; empty if there was none.
        """
        with redis_errors(), self._client.pipeline() as pipe:
            now = self._clock()
            pipe.hget(redis_keys.worker_key(name), "instance")
            pipe.zremrangebyscore(redis_keys.ALIVE_WORKERS, "-inf", now - _MISSED_SECONDS)
            pipe.zadd(redis_keys.ALIVE_WORKERS, {name: now + ALIVE_SECONDS})
            self._set(pipe, name, facts)
            return str(pipe.execute()[0] or "")

    def mark_ready(
        self, name: str, seconds: float, *, ago: float = 0.0, **facts: str | float
    ) -> None:
        """Record that a worker's model answered, in the process `pid`, so many seconds ago.

        It counts for `seconds` from now.
        """
        with redis_errors(), self._client.pipeline() as pipe:
            self._answered(pipe, name, seconds, ago)
            self._set(pipe, name, facts)
            pipe.execute()

    def _answered(self, pipe: Redis, name: str, seconds: float, ago: float) -> None:
        now = self._clock()
        pipe.set(redis_keys.ready_key(name), now - ago, px=int(seconds * 1000))
        pipe.zadd(redis_keys.READY_WORKERS, {name: now + seconds})

    def last_answer(self, name: str) -> tuple[int, bool]:
        """Return the process whose model answered last (0: none), and whether that still counts."""
        with redis_errors(), self._client.pipeline() as pipe:
            pipe.hget(redis_keys.worker_key(name), "pid")
            pipe.exists(redis_keys.ready_key(name))
            pid, counts = pipe.execute()
        return int(pid or 0), bool(counts)

    def update(self, name: str, **facts: str | float) -> None:
        """Change what is known of a worker."""
        with redis_errors(), self._client.pipeline() as pipe:
            self._set(pipe, name, facts)
            pipe.execute()

    def record_start(self, name: str) -> None:
        """Record that a child process of a worker begins to load the model."""
        key, now = redis_keys.process_starts_key(name), self._clock()
        with redis_errors(), self._client.pipeline() as pipe:
            pipe.zremrangebyscore(key, "-inf", now - STARTS_SECONDS)
            pipe.zadd(key, {str(now): now})
            pipe.expire(key, int(STARTS_SECONDS))
            pipe.execute()

    def count_starts(self, name: str) -> int:
        """Return how many child processes a worker has started lately; a healthy one starts one."""
        with redis_errors():
            since = self._clock() - STARTS_SECONDS
            return int(self._client.zcount(redis_keys.process_starts_key(name), since, "+inf"))

    def mark_not_ready(self, name: str, *, pid: int | None = None) -> None:
        """Record that a worker's model no longer answers, and runs nothing.

        With `pid`, do so only if no other process than that one has answered meanwhile.
        """
        key = redis_keys.worker_key(name)

        def take_back(pipe: Pipeline) -> None:
            if pid is not None and pipe.hget(key, "pid") != str(pid):
                return
            pipe.multi()
            pipe.delete(redis_keys.ready_key(name))
            pipe.zrem(redis_keys.READY_WORKERS, name)
            self._set(pipe, name, {"running": 0, "pid": 0})

        with redis_errors():
            self._client.transaction(take_back, key)

    def remove(self, name: str) -> None:
        """Remove a worker that ends."""
        with redis_errors(), self._client.pipeline() as pipe:
            pipe.zrem(redis_keys.READY_WORKERS, name)
            pipe.zrem(redis_keys.ALIVE_WORKERS, name)
            pipe.execute()

    def drain(self, name: str, reason: str) -> None:
        """Let a worker finish its job, and take no other; the reason is shown in a table's line."""
        with redis_errors():
            self._client.hset(redis_keys.DRAINED_WORKERS, name, " ".join(reason.split()))

    def undrain(self, name: str) -> bool:
        """Let a worker take jobs again; False if it was not drained."""
        with redis_errors():
            self._client.delete(redis_keys.gpu_faults_key(name))
            return bool(self._client.hdel(redis_keys.DRAINED_WORKERS, name))

    def drained(self, name: str) -> str:
        """Return why a worker is drained; empty if it is not."""
        with redis_errors():
            return str(self._client.hget(redis_keys.DRAINED_WORKERS, name) or "")

    def record_fault(self, name: str, task_id: str, reason: str) -> bool:
        """Count a fault of a worker's GPU; True if it has just been drained for its faults.

        A job counts once, so that an image too large for any GPU does not drain them all.
        """
        key = redis_keys.gpu_faults_key(name)
        with redis_errors(), self._client.pipeline() as pipe:
            pipe.sadd(key, task_id)
            pipe.scard(key)
            pipe.expire(key, _RECORD_SECONDS)
            added, faults, _ = pipe.execute()
        if not added or faults < MAX_FAULTS:
            return False
        self.drain(name, f"{faults} {_DRAIN_REASON}, the last: {reason}")
        return True

    def record_result(
        self, name: str, mean_seconds: float, *, ready_seconds: float = 0.0, **facts: str | float
    ) -> None:
        """Record that the model made a job's result, which ends a row of faults.

        With `ready_seconds`, that is an answer which counts so long; see `mark_ready`.
        """
        with redis_errors(), self._client.pipeline() as pipe:
            pipe.delete(redis_keys.gpu_faults_key(name))
            if ready_seconds:
                self._answered(pipe, name, ready_seconds, 0.0)
            seconds = round(mean_seconds, 4)
            self._set(pipe, name, {**facts, "running": 0, "seconds": seconds})
            pipe.execute()

    def workers(self) -> list[Worker]:
        """Return all workers that are alive, ready or drained."""
        now = self._clock()
        with redis_errors(), self._client.pipeline() as pipe:
            pipe.zrangebyscore(redis_keys.ALIVE_WORKERS, now, "+inf")
            pipe.zrangebyscore(redis_keys.READY_WORKERS, now, "+inf")
            pipe.hgetall(redis_keys.DRAINED_WORKERS)
            alive, ready, drained = pipe.execute()
        return [
            replace(
                worker,
                alive=worker.name in alive,
                ready=worker.name in ready,
                drained=drained.get(worker.name, ""),
            )
            for worker in self._recorded({*alive, *ready, *drained})
        ]

    def ready_names(self) -> list[str]:
        """Return the names of the workers that are alive and ready."""
        now = self._clock()
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for index in (redis_keys.READY_WORKERS, redis_keys.ALIVE_WORKERS):
                pipe.zrangebyscore(index, now, "+inf")
            ready, alive = pipe.execute()
        return sorted({*ready} & {*alive})

    def revision(self, model: str) -> str | None:
        """Return the revision of the weights that serve a model; None if it is not known now."""
        try:
            known = get_spec(model).sha256
        except ModelError:
            known = None
        if known:
            return known  # no other file is served
        said = {each.revision for each in self.workers() if each.model == model and each.revision}
        return "+".join(sorted(said)) or None

    def silent(self) -> dict[str, float]:
        """Return the workers that fell silent without a shutdown, and for how many seconds."""
        now = self._clock()
        with redis_errors():
            found = self._client.zrangebyscore(
                redis_keys.ALIVE_WORKERS, "-inf", f"({now}", withscores=True
            )
        gone = cast("list[tuple[str, float]]", found)
        return {name: now - until + ALIVE_SECONDS for name, until in gone}

    def missing(self) -> list[Worker]:
        """Return the workers of `silent`, as they were."""
        return self._recorded(self.silent())

    def _recorded(self, names: Iterable[str]) -> list[Worker]:
        """Return what is recorded of workers, by name; nobody is alive, ready or drained in it."""
        ordered = sorted(names)
        with redis_errors(), self._client.pipeline() as pipe:
            for name in ordered:
                pipe.hgetall(redis_keys.worker_key(name))
            found = cast("list[dict[str, str]]", pipe.execute())
        return [
            Worker(
                name=name,
                queue=facts.get("queue", ""),
                model=facts.get("model", ""),
                revision=facts.get("revision", ""),
                pid=int(facts.get("pid", 0)),
                seconds=float(facts.get("seconds", DEFAULT_JOB_SECONDS)),
                running=int(facts.get("running", 0)),
                path=facts.get("path", ""),
                path_reason=facts.get("path_reason", ""),
                resident=int(facts.get("resident", 0)),
                gpu_used=int(facts.get("gpu_used", 0)),
                gpu_total=int(facts.get("gpu_total", 0)),
            )
            for name, facts in zip(ordered, found, strict=True)
        ]

    @staticmethod
    def _set(pipe: Redis, name: str, facts: dict[str, str | float]) -> None:
        if facts:
            # redis-py's types want keys of every kind that it takes.
            pipe.hset(redis_keys.worker_key(name), mapping=cast("dict[Any, Any]", facts))
            pipe.expire(redis_keys.worker_key(name), _RECORD_SECONDS)
