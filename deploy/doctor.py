"""The checks of `rmbg doctor`: settings, Redis, object store, model, workers, queues, webhooks.

Each check yields `CheckResult`s: what was checked, how bad it is, and what to do about it.
"""

import importlib.util
import io
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from statistics import median
from typing import Any, Final
from urllib.parse import urlsplit

import urllib3
from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

from inference.errors import ModelError
from inference.models.registry import ModelSpec, get_spec
from inference.models.weights import find_weights_problem
from tasks.errors import QueueUnavailableError, SettingsError, TaskError
from tasks.jobs import routing
from tasks.jobs.model import Job, Status
from tasks.jobs.store import JobStore
from tasks.runtime import Runtime
from tasks.settings import Settings
from tasks.storage.object_store import ObjectStore
from tasks.webhooks.store import DeliveryStore
from tasks.worker_registry import Worker, WorkerRegistry


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    #: It works, but somebody should look.
    WARN = "warn"
    #: Jobs are not done, or may be lost, until somebody acts.
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One line.

    Attributes:
        subject: what was looked at, a stable name such as `redis.aof`.
        level: how bad it is.
        text: what was seen.
        advice: what to do; empty if nothing.
    """

    subject: str
    level: Level
    text: str
    advice: str = ""


def ok(subject: str, text: str) -> CheckResult:
    """Nothing to do."""
    return CheckResult(subject, Level.OK, text)


def warn(subject: str, text: str, advice: str) -> CheckResult:
    """Somebody should look."""
    return CheckResult(subject, Level.WARN, text, advice)


def fail(subject: str, text: str, advice: str) -> CheckResult:
    """Somebody has to act."""
    return CheckResult(subject, Level.FAIL, text, advice)


#: The oldest with all commands that the service and its broker use.
_MINIMUM_VERSION: Final = (6, 2)

_SLOW_MILLISECONDS: Final = 10.0

_PINGS: Final = 5

_NEARLY_FULL: Final = 0.8


def check_redis(client: Redis, url: str) -> Iterator[CheckResult]:
    """Reachable, version, append-only file, eviction, memory, latency."""
    place = _place(url)
    try:
        facts: dict[str, Any] = client.info()
        milliseconds = _latency(client)
    except RedisError as error:
        yield fail(
            "redis", f"{place} does not answer: {error}", "start it, or correct RMBG_REDIS_URL"
        )
        return
    yield _version(facts, place)
    yield _append_only(facts)
    yield _eviction(facts)
    yield _memory(facts)
    yield _speed(milliseconds)


def _place(url: str) -> str:
    """The address without its password."""
    address = urlsplit(url)
    return f"{address.hostname}:{address.port or 6379}" if address.hostname else address.path


def _latency(client: Redis) -> float:
    times = []
    for _ in range(_PINGS):
        began = time.perf_counter()
        client.ping()
        times.append(time.perf_counter() - began)
    return median(times) * 1000


def _version(facts: dict[str, Any], place: str) -> CheckResult:
    text = str(facts.get("redis_version", "0.0"))
    name = f"Valkey {facts['valkey_version']}" if "valkey_version" in facts else f"Redis {text}"
    if tuple(int(part) for part in text.split(".")[:2]) < _MINIMUM_VERSION:
        return fail(
            "redis.version", f"{name} at {place}", "update it: 6.2 is the oldest that will do"
        )
    return ok("redis.version", f"{name} at {place}")


def _append_only(facts: dict[str, Any]) -> CheckResult:
    if not facts.get("aof_enabled"):
        return fail(
            "redis.aof",
            "the append-only file is off: a restart of Redis loses jobs",
            "set `appendonly yes` in its configuration",
        )
    if facts.get("aof_last_write_status", "ok") != "ok":
        return fail("redis.aof", "the last write failed", "look at its disk: is it full?")
    return ok("redis.aof", "the append-only file is on")


def _eviction(facts: dict[str, Any]) -> CheckResult:
    policy = str(facts.get("maxmemory_policy", "unknown"))
    if policy == "noeviction":
        return ok("redis.eviction", "nothing is evicted")
    return fail(
        "redis.eviction",
        f"maxmemory-policy is {policy}: jobs may be thrown away",
        "set `maxmemory-policy noeviction` in its configuration",
    )


def _memory(facts: dict[str, Any]) -> CheckResult:
    used, most = int(facts.get("used_memory", 0)), int(facts.get("maxmemory", 0))
    text = f"{used / 2**20:,.0f} MiB used" + (f" of {most / 2**20:,.0f}" if most else "")
    if most and used > _NEARLY_FULL * most:
        return warn("redis.memory", text, "raise maxmemory: when it is full, uploads are refused")
    return ok("redis.memory", text)


def _speed(milliseconds: float) -> CheckResult:
    text = f"answers in {milliseconds:.1f} ms"
    if milliseconds > _SLOW_MILLISECONDS:
        return warn("redis.latency", text, "bring it nearer, or look for what keeps it busy")
    return ok("redis.latency", text)


_STORE_SECONDS: Final = 5.0

#: S3 refuses requests whose clock is off by 15 minutes.
_MOST_SKEW_SECONDS: Final = 900

_SKEW_SECONDS: Final = 60

_OK: Final = 200


def check_object_store(objects: ObjectStore, settings: Settings) -> Iterator[CheckResult]:
    """Bucket, write, read, delete, signed address, clock."""
    place = f"{settings.s3_endpoint}{settings.s3_bucket}"
    try:
        objects.ping()
    except TaskError as error:
        yield fail(
            "store.bucket",
            f"{place}: {error}",
            "start the store, correct RMBG_S3_ENDPOINT and the keys, or make the bucket",
        )
        return
    yield ok("store.bucket", f"{place} is there")
    yield from _objects(objects)
    yield _clock(str(settings.s3_endpoint))


def _objects(objects: ObjectStore) -> Iterator[CheckResult]:
    key, data = f"doctor/{secrets.token_hex(8)}", secrets.token_bytes(1024)
    began = time.perf_counter()
    try:
        objects.put(key, io.BytesIO(data), len(data), "application/octet-stream")
        try:
            whole = objects.get(key) == data
            signed = _signed(objects, key)
        finally:
            objects.delete(key)
    except TaskError as error:
        yield fail("store.objects", str(error), "let the keys put, get and delete objects there")
        return
    milliseconds = (time.perf_counter() - began) * 1000
    if not whole:
        yield fail("store.objects", "what was read is not what was written", "look at the store")
        return
    yield ok("store.objects", f"written, read and deleted in {milliseconds:.0f} ms")
    yield signed


def _signed(objects: ObjectStore, key: str) -> CheckResult:
    advice = "set RMBG_S3_PUBLIC_ENDPOINT to the store's address as clients reach it"
    try:
        answer = urllib3.request(
            "GET", objects.url(key, seconds=60), timeout=_STORE_SECONDS, retries=False
        )
    except urllib3.exceptions.HTTPError as error:
        text = f"signed addresses do not work from here: {type(error).__name__}"
        return warn("store.signed", text, advice)
    if answer.status != _OK:
        return warn("store.signed", f"a signed address answered {answer.status}", advice)
    return ok("store.signed", "signed addresses work from here")


def _clock(endpoint: str) -> CheckResult:
    try:
        answer = urllib3.request(
            "GET", endpoint, timeout=_STORE_SECONDS, retries=False, redirect=False
        )
        skew = time.time() - parsedate_to_datetime(answer.headers["Date"]).timestamp()
    except (urllib3.exceptions.HTTPError, KeyError, ValueError):
        return ok("store.clock", "the store does not tell its time")
    text = f"{abs(skew):.0f} s between this clock and the store's"
    if abs(skew) > _MOST_SKEW_SECONDS:
        return fail("store.clock", text, "set the clock: S3 refuses such requests")
    if abs(skew) > _SKEW_SECONDS:
        return warn("store.clock", text, "set the clock, by NTP for example")
    return ok("store.clock", text)


def check_model(settings: Settings, *, served: bool) -> Iterator[CheckResult]:
    """File and device.

    Args:
        settings: which model, where its file lies, which device.
        served: a worker serves the model already, so that this machine need not be able to.
    """
    try:
        spec = get_spec(settings.model)
    except ModelError as error:
        yield fail("model.file", str(error), "correct RMBG_MODEL; see `rmbg models list`")
        return
    yield _file(spec, settings, served=served)
    yield _device(spec, settings)


def _file(spec: ModelSpec, settings: Settings, *, served: bool) -> CheckResult:
    path = settings.model_file(spec.file_name)
    try:
        fault = find_weights_problem(spec, path)
    except OSError as error:
        fault = f"cannot be read ({error.strerror})"
    if fault is None:
        return ok("model.file", f"{spec.name}: {path}")
    advice = f"fetch it: rmbg models fetch {spec.name}"
    if served:
        text = f"{path} {fault} on this machine, but a worker has the model"
        return warn("model.file", text, f"if a model worker is to run here, {advice}")
    return fail("model.file", f"{path} {fault}", advice)


def _device(spec: ModelSpec, settings: Settings) -> CheckResult:
    wanted = settings.device
    if wanted == "cpu":
        return ok("model.device", "cpu, as asked for")
    module = "onnxruntime" if spec.engine == "onnx" else "torch"
    if importlib.util.find_spec(module) is None:
        text = f"{module}, which runs {spec.name}, is not installed on this machine"
        extra = "cpu" if spec.engine == "onnx" else "torch"
        advice = f"if a model worker is to run here: pip install 'rmbg-queue[{extra}]'"
        return warn("model.device", text, advice)
    return _onnx_device(wanted) if spec.engine == "onnx" else _torch_device(wanted)


def _onnx_device(wanted: str) -> CheckResult:
    import onnxruntime  # noqa: PLC0415 - the command line starts without it

    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if wanted == "auto":
        return ok("model.device", f"auto: {'CUDA' if has_cuda else 'the CPU'}")
    if has_cuda:
        return ok("model.device", f"{wanted}, by ONNX Runtime")
    return fail(
        "model.device",
        f"{wanted} was asked for, but this ONNX Runtime has no CUDA",
        "install onnxruntime-gpu, or set RMBG_DEVICE=cpu",
    )


def _torch_device(wanted: str) -> CheckResult:
    from inference.models.birefnet.device import choose_device  # noqa: PLC0415 - imports torch

    try:
        chosen = choose_device(wanted)
    except ModelError as error:
        return fail("model.device", str(error), "correct RMBG_DEVICE, or the driver")
    if wanted == "auto" and chosen.type == "cpu":
        text = "no GPU was found, and the CPU takes seconds a picture"
        return warn(
            "model.device", text, "if there is a GPU, check nvidia-smi; else RMBG_DEVICE=cpu"
        )
    return ok("model.device", f"{wanted}: {chosen}")


_JOBS: Final = "celery -A tasks.app jobs"

#: A job that waits longer deserves a look.
_LONG_SECONDS: Final = 300

_ANSWER_SECONDS: Final = 1.5

_BLOCK: Final = 500


def check_workers(fleet: WorkerRegistry, settings: Settings) -> Iterator[CheckResult]:
    """One line for each model worker, and one if none can do the model's jobs."""
    workers = fleet.workers()
    for worker in workers:
        yield _worker(worker)
    for name, seconds in fleet.silent().items():
        text = f"{name} fell silent {seconds:.0f} s ago"
        yield warn("workers", text, "start it again, unless it was taken away on purpose")
    usable = [worker for worker in workers if worker.usable and worker.model == settings.model]
    if not usable:
        yield fail(
            "workers",
            f"no worker is ready for {settings.model}: its jobs wait",
            f"start one: celery -A tasks.app worker -n gpu0@%h -c 1 "
            f"-Q {routing.gpu_queue(settings.host, 0)},{routing.model_queue(settings.model)}",
        )


def _worker(worker: Worker) -> CheckResult:
    text = f"{worker.name}: {worker.model or 'unknown model'}, {worker.seconds:.2f} s a job"
    if worker.drained:
        return warn(
            "workers",
            f"{worker.name} is drained: {worker.drained}",
            f"when it is well again: {_JOBS} undrain {worker.name}",
        )
    if not worker.alive:
        return warn("workers", f"{worker.name} does not say that it lives", "start it again")
    if not worker.ready:
        advice = "wait while its model loads; if that lasts, see its log"
        return warn("workers", f"{worker.name} lives, but its model does not answer", advice)
    return ok("workers", f"{text}, {'busy' if worker.running else 'ready'}")


def check_io_worker(app: Celery) -> CheckResult:
    """Somebody takes from the I/O queue, and so runs the reconciler."""
    try:
        answers = app.control.inspect(timeout=_ANSWER_SECONDS).active_queues() or {}
    except (OperationalError, RedisError, OSError) as error:
        answers, why = {}, f" ({type(error).__name__})"
    else:
        why = ""
    found = [
        worker
        for worker, queues in answers.items()
        if any(queue["name"] == routing.IO_QUEUE for queue in queues)
    ]
    if found:
        return ok("workers.io", f"{', '.join(sorted(found))} keeps records and messages in step")
    return fail(
        "workers.io",
        f"no I/O worker answers{why}: what is lost is not found, what is due is not sent",
        "start one: celery -A tasks.app worker -n io@%h -Q io -P threads",
    )


def check_queues(
    store: JobStore, fleet: WorkerRegistry, settings: Settings
) -> Iterator[CheckResult]:
    """How much waits, for how long, and whether somebody takes it."""
    queued, unreadable = _queued(store)
    if unreadable:
        text = f"{len(unreadable)} jobs that wait have records that cannot be read"
        yield fail("queues.records", text, f"see {_JOBS} stuck")
    running = store.counts()[Status.PROCESSING]
    yield _depth(len(queued) + len(unreadable), running, settings.max_pending)
    if queued:
        yield _oldest(queued)
    models = {worker.model for worker in fleet.workers() if worker.usable}
    for model, number in sorted(Counter(job.model for job in queued).items()):
        if model not in models:
            text = f"{number} jobs wait for {model}, which no ready worker serves"
            yield fail("queues", text, f"start a worker for {model}, or cancel them: {_JOBS} purge")


def _queued(store: JobStore) -> tuple[list[Job], list[str]]:
    """The jobs that wait, and the ids of those whose records cannot be read."""
    ids = store.ids(Status.QUEUED)
    blocks = [store.read(ids[start : start + _BLOCK]) for start in range(0, len(ids), _BLOCK)]
    jobs = [job for block in blocks for job in block.jobs]
    return jobs, [task_id for block in blocks for task_id in block.unreadable]


def _depth(queued: int, running: int, most: int) -> CheckResult:
    text = f"{queued} jobs wait, {running} run"
    if most and queued + running > _NEARLY_FULL * most:
        advice = "add workers; at RMBG_MAX_PENDING, uploads are answered with 503"
        return warn("queues.depth", f"{text}, of {most} at most", advice)
    return ok("queues.depth", text)


def _oldest(queued: list[Job]) -> CheckResult:
    oldest = min(queued, key=lambda job: job.created_at)
    seconds = time.time() - oldest.created_at
    text = f"the oldest, {oldest.task_id}, waits for {seconds:.0f} s"
    if seconds > _LONG_SECONDS:
        return warn("queues.oldest", text, f"see {_JOBS} stuck; if that is empty, add workers")
    return ok("queues.oldest", text)


def check_dead_letters(store: JobStore) -> CheckResult:
    """Jobs that were given up."""
    number = len(store.dead())
    if number:
        advice = f"see {_JOBS} dead list, then dead requeue or dead drop"
        return warn("dead_letters", f"{number} jobs were given up", advice)
    return ok("dead_letters", "none")


_MAX_COUNTED: Final = 1000


def check_webhooks(deliveries: DeliveryStore, settings: Settings) -> CheckResult:
    """One line. That nobody without a key can have webhooks is a choice, and no fault."""
    dead = deliveries.dead(_MAX_COUNTED)
    if dead:
        number = f"{_MAX_COUNTED} or more" if len(dead) == _MAX_COUNTED else str(len(dead))
        return warn(
            "webhooks",
            f"{number} were given up, the latest because: {dead[0].reason}",
            "look: celery -A tasks.app webhooks list --dead; then replay or drop them",
        )
    if settings.webhook_secret is None:
        return ok("webhooks", "none was given up; RMBG_WEBHOOK_SECRET is not set: API keys only")
    return ok("webhooks", "none was given up; signed with RMBG_WEBHOOK_SECRET, or a key's secret")


def run_checks() -> Iterator[CheckResult]:
    """Look at everything; each finding comes as soon as it is known."""
    try:
        settings = Settings.load()
    except SettingsError as error:
        yield fail("settings", str(error), "correct them; docs/settings.md has them all")
        return
    yield ok("settings", f"all valid; model {settings.model}, host {settings.host}")
    url = settings.redis_url.get_secret_value()
    with Runtime.from_settings(settings) as runtime:
        redis = list(check_redis(runtime.redis, url))
        yield from redis
        yield from check_object_store(runtime.object_store, settings)
        if redis[0].level is Level.FAIL and redis[0].subject == "redis":
            yield from check_model(settings, served=False)
            yield warn("workers", "not known while Redis is away", "bring Redis back first")
            return
        yield from _examine_work(runtime)


def _examine_work(runtime: Runtime) -> Iterator[CheckResult]:
    settings, registry, job_store = runtime.settings, runtime.registry, runtime.job_store
    try:
        workers = registry.workers()
        served = any(each.usable and each.model == settings.model for each in workers)
        yield from check_model(settings, served=served)
        yield from check_workers(registry, settings)
        yield check_io_worker(runtime.celery_app)
        yield from check_queues(job_store, registry, settings)
        yield check_dead_letters(job_store)
        yield check_webhooks(runtime.deliveries, settings)
    except QueueUnavailableError as error:
        yield fail("redis", str(error), "it answered a moment ago: look at its log")
