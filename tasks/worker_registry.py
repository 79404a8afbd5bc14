"""The worker registry: which workers are alive, ready, drained or busy, as Redis knows them."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, cast

from redis import Redis
from redis.client import Pipeline

from inference.errors import ModelError
from inference.models.registry import get_spec
from tasks import redis_keys
from tasks.redis_client import redis_errors

#: A parent process says so often that it lives, and counts as dead when silent for so long.
HEARTBEAT_SECONDS: Final = 2.0
ALIVE_SECONDS: Final = 6.0
#: For so long a process's start is remembered.
STARTS_SECONDS: Final = 600.0
#: A worker that has been silent for so long is no longer missed.
_MISSED_SECONDS: Final = 24 * 3600.0
#: What it said of itself is kept for longer, lest a drained GPU forget its faults.
_RECORD_SECONDS: Final = 7 * 24 * 3600
#: What a job is taken to last on a worker that has not finished one yet.
DEFAULT_JOB_SECONDS: Final = 1.0
#: Faults in a row after which a GPU is drained.
MAX_FAULTS: Final = 5
_DRAIN_REASON: Final = "faults in a row"


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker's facts.

    Attributes:
        name: Celery's name of it, `gpu0@host`.
        queue: its own queue; empty if it has none.
        model: what it serves.
        revision: SHA-256 of the weights that it has loaded; empty if it has not said.
        pid: of the process that has the model.
        seconds: a running mean of what a job takes.
        running: jobs that it has begun, 0 or 1.
        alive: its parent process said so lately.
        ready: its model answered lately.
        drained: why it takes no jobs; empty if it does.
        path: how its model is run; empty where there is one way only.
        path_reason: why not in a quicker way; empty if there is none.
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

    @property
    def drained_by(self) -> str:
        """Whose doing a drain is: `service` after faults in a row, else `operator`."""
        return "service" if _DRAIN_REASON in self.drained else "operator"

    @property
    def usable(self) -> bool:
        """Would it take a job now?"""
        return self.alive and self.ready and not self.drained


class WorkerRegistry:
    """Reads and writes the workers' facts. Raises `QueueUnavailableError` when Redis is away."""

    def __init__(self, client: Redis, *, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._clock = clock

    def beat(self, name: str, **facts: str | float) -> None:
        """A worker's parent lives."""
        with redis_errors(), self._client.pipeline() as pipe:
            now = self._clock()
            pipe.zremrangebyscore(redis_keys.ALIVE_WORKERS, "-inf", now - _MISSED_SECONDS)
            pipe.zadd(redis_keys.ALIVE_WORKERS, {name: now + ALIVE_SECONDS})
            self._set(pipe, name, facts)
            pipe.execute()

    def announce(self, name: str, seconds: float, **facts: str | float) -> None:
        """A worker's model has answered, in the process `pid`; that holds for so many seconds."""
        now = self._clock()
        with redis_errors(), self._client.pipeline() as pipe:
            pipe.set(redis_keys.ready_key(name), now, px=int(seconds * 1000))
            pipe.zadd(redis_keys.READY_WORKERS, {name: now + seconds})
            self._set(pipe, name, facts)
            pipe.execute()

    def answer(self, name: str) -> tuple[int, bool]:
        """The process whose model answered last, 0 for none, and whether that counts still."""
        with redis_errors(), self._client.pipeline() as pipe:
            pipe.hget(redis_keys.worker_key(name), "pid")
            pipe.exists(redis_keys.ready_key(name))
            pid, counts = pipe.execute()
        return int(pid or 0), bool(counts)

    def note(self, name: str, **facts: str | float) -> None:
        """Facts that changed."""
        with redis_errors(), self._client.pipeline() as pipe:
            self._set(pipe, name, facts)
            pipe.execute()

    def note_start(self, name: str) -> None:
        """A process of a worker begins to load the model."""
        key, now = redis_keys.process_starts_key(name), self._clock()
        with redis_errors(), self._client.pipeline() as pipe:
            pipe.zremrangebyscore(key, "-inf", now - STARTS_SECONDS)
            pipe.zadd(key, {str(now): now})
            pipe.expire(key, int(STARTS_SECONDS))
            pipe.execute()

    def starts(self, name: str) -> int:
        """How many processes a worker has started lately; one that is well starts one."""
        with redis_errors():
            since = self._clock() - STARTS_SECONDS
            return int(self._client.zcount(redis_keys.process_starts_key(name), since, "+inf"))

    def withdraw(self, name: str, *, pid: int | None = None) -> None:
        """A worker's model no longer answers, and runs nothing.

        Args:
            name: the worker.
            pid: leave it alone if another process than this one has answered meanwhile.
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

    def leave(self, name: str) -> None:
        """A worker ends."""
        with redis_errors(), self._client.pipeline() as pipe:
            pipe.zrem(redis_keys.READY_WORKERS, name)
            pipe.zrem(redis_keys.ALIVE_WORKERS, name)
            pipe.execute()

    def drain(self, name: str, reason: str) -> None:
        """Let a worker finish what it runs, and take nothing more."""
        with redis_errors():
            self._client.hset(redis_keys.DRAINED_WORKERS, name, reason)

    def undrain(self, name: str) -> bool:
        """Let it work again; False if it was not drained."""
        with redis_errors():
            self._client.delete(redis_keys.gpu_faults_key(name))
            return bool(self._client.hdel(redis_keys.DRAINED_WORKERS, name))

    def drained(self, name: str) -> str:
        """Why a worker takes no jobs; empty if it does."""
        with redis_errors():
            return str(self._client.hget(redis_keys.DRAINED_WORKERS, name) or "")

    def fault(self, name: str, task_id: str, reason: str) -> bool:
        """Count a fault of the worker's GPU; True when it has now been drained for them.

        A job counts once, lest one picture that is too much for any GPU drains them all.
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

    def finished(self, name: str, mean_seconds: float) -> None:
        """The model made a job's result: no fault now."""
        with redis_errors(), self._client.pipeline() as pipe:
            pipe.delete(redis_keys.gpu_faults_key(name))
            self._set(pipe, name, {"running": 0, "seconds": round(mean_seconds, 4)})
            pipe.execute()

    def workers(self) -> list[Worker]:
        """All workers that live, are ready, or are drained."""
        now = self._clock()
        with redis_errors(), self._client.pipeline() as pipe:
            pipe.zrangebyscore(redis_keys.ALIVE_WORKERS, now, "+inf")
            pipe.zrangebyscore(redis_keys.READY_WORKERS, now, "+inf")
            pipe.hgetall(redis_keys.DRAINED_WORKERS)
            alive, ready, drained = pipe.execute()
        names = sorted({*alive, *ready, *drained})
        facts = self._facts(names)
        return [
            _parse_worker(
                name,
                fact,
                alive=name in alive,
                ready=name in ready,
                drained=drained.get(name, ""),
            )
            for name, fact in zip(names, facts, strict=True)
        ]

    def revision(self, model: str) -> str | None:
        """Which weights a model's results are made with; None if that cannot be told now."""
        try:
            known = get_spec(model).sha256
        except ModelError:
            known = None
        if known:
            return known  # no other file is served
        said = {each.revision for each in self.workers() if each.model == model and each.revision}
        return "+".join(sorted(said)) or None

    def silent(self) -> dict[str, float]:
        """Workers that fell silent without taking their leave, and for how many seconds now."""
        now = self._clock()
        with redis_errors():
            found = self._client.zrangebyscore(
                redis_keys.ALIVE_WORKERS, "-inf", f"({now}", withscores=True
            )
        gone = cast("list[tuple[str, float]]", found)
        return {name: now - until + ALIVE_SECONDS for name, until in gone}

    def missed(self) -> list[Worker]:
        """The workers of `silent`, as they were."""
        names = sorted(self.silent())
        return [
            _parse_worker(name, fact, alive=False, ready=False, drained="")
            for name, fact in zip(names, self._facts(names), strict=True)
        ]

    def _facts(self, names: Iterable[str]) -> list[dict[str, str]]:
        with redis_errors(), self._client.pipeline() as pipe:
            for name in names:
                pipe.hgetall(redis_keys.worker_key(name))
            return cast("list[dict[str, str]]", pipe.execute())

    @staticmethod
    def _set(pipe: Redis, name: str, facts: dict[str, str | float]) -> None:
        if facts:
            # redis-py's types want keys of every kind that it takes.
            pipe.hset(redis_keys.worker_key(name), mapping=cast("dict[Any, Any]", facts))
            pipe.expire(redis_keys.worker_key(name), _RECORD_SECONDS)


def _parse_worker(
    name: str, facts: dict[str, str], *, alive: bool, ready: bool, drained: str
) -> Worker:
    return Worker(
        name=name,
        queue=facts.get("queue", ""),
        model=facts.get("model", ""),
        revision=facts.get("revision", ""),
        pid=int(facts.get("pid", 0)),
        seconds=float(facts.get("seconds", DEFAULT_JOB_SECONDS)),
        running=int(facts.get("running", 0)),
        alive=alive,
        ready=ready,
        drained=drained,
        path=facts.get("path", ""),
        path_reason=facts.get("path_reason", ""),
    )
