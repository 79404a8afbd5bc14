"""The checks of `rmbg doctor`: settings, Redis, object store, model, workers, queues, webhooks.

Each check yields `CheckResult`s: what was checked, how bad it is, and what to do about it.
"""

import importlib.util
import io
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from enum import StrEnum
from itertools import count, islice
from statistics import median
from typing import Any, Final
from urllib.parse import urlsplit

import urllib3
from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from api.settings import ApiSettings
from inference.errors import ModelError
from inference.models.registry import ModelSpec, get_spec
from inference.models.weights import find_weights_problem
from tasks.capacity import REDIS_SHARE, disk_problem, free_bytes, redis_problem
from tasks.errors import (
    ObjectStoreDeniedError,
    QueueUnavailableError,
    SettingsError,
    TaskError,
)
from tasks.jobs import routing
from tasks.jobs.job import Status
from tasks.jobs.store import JobStore
from tasks.object_store import ObjectStore, authorities
from tasks.redis_address import RedisAddress, ServerNotReadyError
from tasks.redis_client import require_primary, server_problem
from tasks.runtime import Runtime
from tasks.settings import Settings, unknown_variables
from tasks.webhooks.deliveries import DeliveryStore
from tasks.worker_registry import Worker

_SLOW_MILLISECONDS: Final = 10.0
_PINGS: Final = 5
#: Above this share of a limit, a check warns.
_NEARLY_FULL: Final = 0.8

#: Keys of Redis that are looked at for those of other programs.
_MAX_KEYS: Final = 20_000
#: The service's keys, and those of Celery that it causes; the last ones are of earlier versions.
_OWN_KEYS: Final = re.compile(
    r"rmbg:|unacked|_kombu\.binding_|(_kombu\.binding\.)?(gpu|model)\."
    r"|(_kombu\.binding\.)?webhooks(\x06\x16\d)?$"
    r"|_kombu\.binding\.(reply\.)?celery(ev$|\.pidbox)"
    r"|[0-9a-f-]{36}\.reply\.celery\.pidbox"
)

#: The objects that the doctor writes, and removes.
_DOCTOR_PREFIX: Final = "doctor/"
_HTTP_SECONDS: Final = 5.0
_HTTP_OK: Final = 200
#: S3 refuses requests whose clock is off by 15 minutes.
_MAX_SKEW_SECONDS: Final = 900
_WARN_SKEW_SECONDS: Final = 60

_INSPECT_SECONDS: Final = 1.5
_LONG_WAIT_SECONDS: Final = 300
#: Records that are read from Redis at once.
_READ_BATCH: Final = 500
#: Dead deliveries are counted up to this number.
_MAX_COUNTED: Final = 1000
_JOBS: Final = "celery -A tasks.app jobs"

#: What Redis has to allow: commands of all kinds that the service and Celery send, each with the
#: arguments behind its key.
_KEYED_COMMANDS: Final = {
    **dict.fromkeys(("GET", "MGET", "INCR", "DEL", "EXISTS", "EXPIRETIME", "TTL", "TYPE"), ()),
    **dict.fromkeys(("HGETALL", "LLEN", "SMEMBERS", "ZCARD", "WATCH"), ()),
    **dict.fromkeys(("EXPIRE", "PEXPIRE", "EXPIREAT", "HSCAN", "ZSCAN", "BRPOP"), ("1",)),
    **dict.fromkeys(("SET", "HDEL", "LPUSH", "RPUSH", "SADD", "SREM", "ZREM"), ("1",)),
    **dict.fromkeys(("HSET", "HINCRBY", "ZADD", "ZRANGE", "ZRANGEBYSCORE"), ("1", "1")),
    **dict.fromkeys(("ZREMRANGEBYSCORE", "ZREVRANGE", "LRANGE", "LREM"), ("1", "1")),
}
_OTHER_COMMANDS: Final = ("PING", "TIME", "SCRIPT EXISTS 0", "INFO", "SCAN 0", "BGREWRITEAOF")
#: What works less well without them.
_OPTIONAL_COMMANDS: Final = frozenset({"INFO", "SCAN", "BGREWRITEAOF"})
_KEYS_TO_TRY: Final = ("rmbg:doctor", "gpu.doctor", "model.doctor", "webhooks", "unacked")
_KEYS_OF_CELERY: Final = ("_kombu.binding.celery.pidbox", "doctor.reply.celery.pidbox")
#: With a subscription to a pattern, Redis wants the pattern itself among the rights. The number of
#: the database is put in.
_CHANNELS_TO_TRY: Final = (
    *("rmbg:done:*", "/{}.celery.pidbox", "/{}.celeryev/*", "/{}.celeryev/worker.*"),
)
_MAX_SHOWN: Final = 5


class Level(StrEnum):
    """The severity of a result."""

    OK = "ok"
    #: The service works, but an operator should look.
    WARN = "warn"
    #: Jobs wait, or may be lost, until an operator acts.
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check, shown as one line."""

    #: Stable name of what was checked, such as `redis.aof`.
    subject: str
    level: Level
    text: str
    #: What to do about it; empty if nothing.
    advice: str = ""


def _ok(subject: str, text: str) -> CheckResult:
    return CheckResult(subject, Level.OK, text)


def _warn(subject: str, text: str, advice: str, *, when: bool = True) -> CheckResult:
    """Return a warning, or, unless `when`, the text alone."""
    return CheckResult(subject, Level.WARN, text, advice) if when else _ok(subject, text)


def _fail(subject: str, text: str, advice: str) -> CheckResult:
    return CheckResult(subject, Level.FAIL, text, advice)


def run_checks() -> Iterator[CheckResult]:
    """Run all checks, those first whose failures explain others; yield each result at once."""
    try:
        settings = Settings.load()
    except SettingsError as error:
        yield _fail("settings", str(error), "correct them; docs/settings.md lists all settings")
        return
    yield _ok("settings", f"all valid; model {settings.model}, host {settings.host}")
    for name, meant in unknown_variables(ApiSettings).items():
        advice = f"{meant} is meant?" if meant else "docs/settings.md lists all settings"
        yield _warn("settings", f"{name} is no setting, and has no effect", advice)
    with Runtime(settings) as runtime:
        redis_results = list(check_redis(runtime.redis, settings.redis_address))
        yield from redis_results
        yield from check_object_store(runtime.object_store, settings)
        # Only a Redis that cannot be used is a result of this name.
        if any(each.subject == "redis" for each in redis_results):
            yield from _check_model(settings, served=False)
            yield _warn("workers", "unknown while Redis cannot be used", "fix Redis first")
            return
        try:
            yield from _check_work(runtime)
        except QueueUnavailableError as error:
            yield _fail("redis", str(error), "it answered a moment ago: see its log")


def _check_work(runtime: Runtime) -> Iterator[CheckResult]:
    """Run the checks that need Redis: model, workers, queues, dead letters, webhooks."""
    settings, workers = runtime.settings, runtime.registry.workers()
    usable = {worker.model for worker in workers if worker.usable}
    yield from _check_model(settings, served=settings.model in usable)
    silent = runtime.registry.silent()
    for worker in workers:
        if worker.drained or worker.name not in silent:
            yield _check_worker(worker)
    for name, seconds in silent.items():
        text = f"{name}: no heartbeat for {seconds:.0f} s"
        yield _warn("workers", text, "restart it, unless it was removed on purpose")
    if settings.model not in usable:
        text = f"no worker is ready for {settings.model}: its jobs wait"
        yield _fail("workers", text, _how_to_get_a_worker(settings, workers))
    yield _check_io_worker(runtime.celery_app, settings.host)
    yield from _check_queues(runtime.job_store, usable, settings.max_pending)
    if given_up := runtime.job_store.count_dead():
        advice = f"see {_JOBS} dead list; then {_JOBS} dead requeue, or dead drop"
        yield _warn("dead_letters", f"{given_up} given up", advice)
    else:
        yield _ok("dead_letters", "none")
    yield _check_webhooks(runtime.deliveries, settings)


# Redis


def check_redis(client: Redis, address: RedisAddress) -> Iterator[CheckResult]:
    """Check that Redis answers, its rights, version, file, eviction, memory and latency."""
    try:
        milliseconds = 1000 * median(_time_ping(client) for _ in range(_PINGS))
        info = _redis_info(client)
        require_primary(client)
    except ServerNotReadyError as error:
        advice = "wait until it is ready, or have RMBG_REDIS_URL lead to the primary"
        yield _fail("redis", f"{address} cannot be used: {error}", advice)
        return
    except RedisError as error:
        yield _fail(
            "redis", f"{address} does not answer: {error}", "start it, or correct RMBG_REDIS_URL"
        )
        return
    yield from _check_tls(address)
    yield check_rights(address)
    yield _check_server(client, info, str(address))
    yield from _check_info(info, str(address))
    yield _check_strangers(client, address.key_prefix)
    if problem := redis_problem(info):
        yield _fail("redis.room", problem, "until then, new pictures are refused")
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    yield _warn(
        "redis.memory",
        f"{used / 2**20:,.0f} MiB used" + (f" of {limit / 2**20:,.0f}" if limit else ""),
        f"raise maxmemory: above {REDIS_SHARE:.0%} of it, new pictures are refused",
        when=limit > 0 and used > _NEARLY_FULL * limit,
    )
    yield _warn(
        "redis.latency",
        f"answers in {milliseconds:.1f} ms",
        "run it closer to the API, and check its load with `redis-cli slowlog get`",
        when=milliseconds > _SLOW_MILLISECONDS,
    )


def _redis_info(client: Redis) -> dict[str, Any]:
    """Ask Redis what it says of itself; nothing if it may not be asked."""
    try:
        return client.info()
    except ResponseError:
        return {}


def _check_info(info: dict[str, Any], address: str) -> Iterator[CheckResult]:
    if not info:
        yield _warn(
            "redis.info",
            f"{address} does not tell its version, append-only file and eviction (INFO)",
            "allow the command, or see to it yourself: Redis 7.0 or later, `appendonly yes`, "
            "`maxmemory-policy noeviction`",
        )
        return
    yield _check_append_only_file(info)
    yield _check_eviction(info)


def check_rights(address: RedisAddress) -> CheckResult:
    """Have Redis judge each command as it queues it in a transaction, which is given up."""
    plain = replace(address, key_prefix="")
    with closing(plain.pool(decode_responses=True, socket_timeout=_HTTP_SECONDS)) as pool:
        connection = pool.get_connection()

        def is_refused(*command: str) -> bool:
            connection.send_command(*command)  # type: ignore[no-untyped-call] # redis leaves it so
            try:
                connection.read_response()
            except ResponseError as error:
                # Any other error, as of WATCH in a transaction, is of a command that is allowed.
                return isinstance(error, NoPermissionError) or "unknown command" in str(error)
            return False

        if is_refused("MULTI"):
            refused = ["MULTI"]
        else:
            commands = _commands_to_try(address)
            refused = [" ".join(each) for each in commands if is_refused(*each)]
    if not refused:
        return _ok("redis.rights", "the user may do all that the service does")
    needed = [each for each in refused if each.partition(" ")[0] not in _OPTIONAL_COMMANDS]
    shown = ", ".join((needed or refused)[:_MAX_SHOWN])
    more = len(needed or refused) - _MAX_SHOWN
    return CheckResult(
        "redis.rights",
        Level.FAIL if needed else Level.WARN,
        f"the user {address.username or 'default'} may not: {shown}"
        + (f" and {more} more" if more > 0 else ""),
        "give it the rights in docs/own-servers.md, *What Redis has to allow*",
    )


def _commands_to_try(address: RedisAddress) -> Iterator[tuple[str, ...]]:
    prefix = address.key_prefix
    key = f"{prefix}{_KEYS_TO_TRY[0]}"
    for command, arguments in _KEYED_COMMANDS.items():
        yield command, key, *arguments
    yield from (("EVAL", "return 1", "1", key), ("EVALSHA", "0" * 40, "1", key))
    yield from (tuple(each.split()) for each in _OTHER_COMMANDS)
    for name in _KEYS_TO_TRY[1:] + _KEYS_OF_CELERY:
        yield "EXISTS", f"{prefix}{name}"
    for channel in _CHANNELS_TO_TRY:
        pattern = prefix + channel.format(address.db)
        yield from (("PUBLISH", pattern, "1"), ("PSUBSCRIBE", pattern))


def _check_tls(address: RedisAddress) -> Iterator[CheckResult]:
    if address.tls is not None:
        checked = address.is_verified
        yield _warn(
            "redis.tls",
            "the server's certificate is verified" if checked else "anybody can pose as the server",
            "take ssl_cert_reqs and ssl_check_hostname out of RMBG_REDIS_URL, and name the "
            "authority there: ssl_ca_certs=/path/ca.pem",
            when=not checked,
        )


def _time_ping(client: Redis) -> float:
    started = time.perf_counter()
    client.ping()
    return time.perf_counter() - started


def _check_server(client: Redis, info: dict[str, Any], address: str) -> CheckResult:
    # Valkey gives the Redis version that it is compatible with here, and its own in another field.
    version = info.get("redis_version", "of an unknown version")
    name = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {version}"
    if problem := server_problem(client):
        advice = "see docs/own-servers.md, *What Redis has to allow*"
        return _fail("redis.version", f"{name} at {address}: {problem}", advice)
    return _ok("redis.version", f"{name} at {address}")


def _check_append_only_file(info: dict[str, Any]) -> CheckResult:
    if not info.get("aof_enabled"):
        return _fail(
            "redis.aof",
            "the append-only file is off: a restart of Redis loses jobs",
            "set `appendonly yes` in its configuration",
        )
    if info.get("aof_last_write_status", "ok") != "ok":
        return _fail("redis.aof", "the last write failed", "check its disk for free space")
    return _ok("redis.aof", "the append-only file is on")


def _check_eviction(info: dict[str, Any]) -> CheckResult:
    policy = str(info.get("maxmemory_policy", "unknown"))
    if policy == "noeviction":
        return _ok("redis.eviction", "maxmemory-policy is noeviction")
    return _fail(
        "redis.eviction",
        f"maxmemory-policy is {policy}: Redis may evict jobs",
        "set `maxmemory-policy noeviction` in its configuration",
    )


def _check_strangers(client: Redis, prefix: str) -> CheckResult:
    """Look for keys that are not the service's, such as those of another Celery application.

    The applications hear each other's commands (`celery control`) and events, and a worker takes
    what the other sends to a queue of the same name.
    """
    if prefix:
        return _ok("redis.keys", f"the service's begin with {prefix}, and leave others alone")
    try:
        keys = islice(client.scan_iter(count=_READ_BATCH), _MAX_KEYS)
        strange = sorted({key for key in keys if not _OWN_KEYS.match(key)})
    except UnicodeDecodeError as error:
        strange = [error.object]  # the service's are texts
    except RedisError as error:
        return _ok("redis.keys", f"not checked: {error}")
    if not strange:
        return _ok("redis.keys", "no other program keeps keys in this database")
    return _warn(
        "redis.keys",
        f"another program keeps keys in this database, such as {strange[0]!r}",
        "give the service a database of its own, by its number in RMBG_REDIS_URL; or, before its "
        "first start, keys of its own by RMBG_REDIS_PREFIX",
    )


# The object store


def check_object_store(object_store: ObjectStore, settings: Settings) -> Iterator[CheckResult]:
    """Check that the bucket is there, what the keys may do in it, its rules, and the clock."""
    address = f"{settings.s3_endpoint}{settings.s3_bucket}"
    if error := _bucket_error(object_store):
        yield _fail(
            "store.bucket",
            f"{address}: {error}",
            "start the object store, correct RMBG_S3_ENDPOINT and the keys, or run `rmbg bucket`",
        )
        if isinstance(error, ObjectStoreDeniedError):
            yield check_permissions(object_store)
        return
    yield _ok("store.bucket", f"{address} exists")
    yield from _check_disk(settings)
    yield from _check_objects(object_store, settings)
    yield check_permissions(object_store)
    yield _check_lifecycle_rules(object_store)
    yield _check_clock(settings)


def _bucket_error(object_store: ObjectStore) -> TaskError | None:
    """Return why the bucket cannot be used; None if it can."""
    try:
        object_store.ping()
    except ObjectStoreDeniedError as denied:
        # The answer to a ping has no body, and does not tell a wrong key from a permission.
        try:
            next(object_store.list(_DOCTOR_PREFIX), None)
        except TaskError as error:
            return error
        return denied
    except TaskError as error:
        return error
    return None


def _check_disk(settings: Settings) -> Iterator[CheckResult]:
    if settings.data_dir is None:
        return
    if problem := disk_problem(settings.data_dir):
        yield _fail("store.disk", problem, "until then, new pictures are refused")
        return
    left = free_bytes(settings.data_dir) / 2**30
    yield _ok("store.disk", f"{left:,.1f} GiB are free on the disk of {settings.data_dir}")


def _check_objects(object_store: ObjectStore, settings: Settings) -> Iterator[CheckResult]:
    key, data = f"{_DOCTOR_PREFIX}{secrets.token_hex(8)}", secrets.token_bytes(1024)
    started = time.perf_counter()
    try:
        object_store.put(key, io.BytesIO(data), len(data), "application/octet-stream")
        try:
            is_intact = object_store.get(key) == data
            signed_url_result = _check_signed_url(object_store, key, settings)
        finally:
            object_store.delete(key)
    except TaskError as error:
        advice = "allow the S3 keys to put, get and delete objects in the bucket"
        yield _fail("store.objects", str(error), advice)
        return
    if not is_intact:
        advice = "see the object store's log, and check its disk"
        yield _fail(
            "store.objects", "the object that was read differs from the written one", advice
        )
        return
    milliseconds = (time.perf_counter() - started) * 1000
    yield _ok("store.objects", f"written, read and deleted in {milliseconds:.0f} ms")
    yield signed_url_result


def check_permissions(object_store: ObjectStore) -> CheckResult:
    """Try all that the service does in the bucket, but for what changes it for good."""
    key, data = f"{_DOCTOR_PREFIX}{secrets.token_hex(8)}", b"permitted"

    def put() -> None:
        object_store.put(key, io.BytesIO(data), len(data), "application/octet-stream")

    def abort() -> None:
        object_store.abort_multipart(key, object_store.begin_multipart(key))

    attempts: dict[str, Callable[[], object]] = {
        "s3:ListBucket": lambda: next(object_store.list(_DOCTOR_PREFIX), None),
        "s3:PutObject": put,
        "s3:GetObject": lambda: object_store.get(key),
        "s3:AbortMultipartUpload": abort,
        "s3:ListBucketMultipartUploads": lambda: object_store.list_multipart(_DOCTOR_PREFIX),
        "s3:DeleteObject": lambda: object_store.delete(key),
    }
    refused = []
    for action, attempt in attempts.items():
        try:
            attempt()
        except ObjectStoreDeniedError:
            refused.append(action)
        except TaskError:
            # Another check tells what else is wrong.
            continue
    if refused:
        return _fail(
            "store.permissions",
            f"the S3 keys may not {', '.join(refused)}",
            "allow all of the policy in docs/own-servers.md, *What the object store has to allow*",
        )
    return _ok("store.permissions", "the S3 keys may do all that the service does with objects")


def _check_lifecycle_rules(object_store: ObjectStore) -> CheckResult:
    advice = (
        "allow s3:GetLifecycleConfiguration and s3:PutLifecycleConfiguration, and run `rmbg "
        "bucket`; without the rules, what the sweeper misses stays for good"
    )
    try:
        has_rules = object_store.has_lifecycle_rules()
        is_longer = has_rules and not object_store.has_lifecycle_rules(shorten=True)
    except TaskError as error:
        return _warn("store.lifecycle", f"the lifecycle rules are not known: {error}", advice)
    if not has_rules:
        return _warn("store.lifecycle", "the bucket lacks the service's lifecycle rules", advice)
    if is_longer:
        text = (
            "the lifecycle rules are those of a longer retention; once its pictures have expired: "
            "rmbg bucket --shorten"
        )
        return _ok("store.lifecycle", text)
    return _ok("store.lifecycle", "the bucket has the service's lifecycle rules")


def _get(address: str, settings: Settings) -> urllib3.BaseHTTPResponse:
    """Send a plain GET, with trust in the store's authorities if the address is the store's."""
    own = urlsplit(str(settings.s3_endpoint)).netloc
    trusted = authorities(settings) if urlsplit(address).netloc.endswith(own) else None
    with urllib3.PoolManager(timeout=_HTTP_SECONDS, retries=False, ca_certs=trusted) as pool:
        return pool.request("GET", address, redirect=False)


def _check_signed_url(object_store: ObjectStore, key: str, settings: Settings) -> CheckResult:
    advice = "set RMBG_S3_PUBLIC_ENDPOINT to the address at which clients reach the object store"
    try:
        response = _get(object_store.url(key, seconds=60), settings)
    except urllib3.exceptions.HTTPError as error:
        text = f"signed URLs do not work from this machine: {type(error).__name__}"
        return _warn("store.signed", text, advice)
    if response.status != _HTTP_OK:
        return _warn("store.signed", f"a signed URL was answered with {response.status}", advice)
    return _ok("store.signed", "signed URLs work from this machine")


def _check_clock(settings: Settings) -> CheckResult:
    try:
        response = _get(str(settings.s3_endpoint), settings)
        skew = time.time() - parsedate_to_datetime(response.headers["Date"]).timestamp()
    except (urllib3.exceptions.HTTPError, KeyError, ValueError):
        return _ok("store.clock", "not checked: the object store sends no Date header")
    text = f"{abs(skew):.0f} s between this machine's clock and the object store's"
    if abs(skew) > _MAX_SKEW_SECONDS:
        advice = f"set the clock: S3 refuses requests that are off by {_MAX_SKEW_SECONDS // 60} min"
        return _fail("store.clock", text, advice)
    advice = "set the clock, by NTP for example"
    return _warn("store.clock", text, advice, when=abs(skew) > _WARN_SKEW_SECONDS)


# The model


def _check_model(settings: Settings, *, served: bool) -> Iterator[CheckResult]:
    """Check the model's file and the device, on this machine.

    The file may be missing here if a worker serves the model already (`served`).
    """
    try:
        spec = get_spec(settings.model)
    except ModelError as error:
        yield _fail("model.file", str(error), "correct RMBG_MODEL; see `rmbg models list`")
        return
    yield _check_model_file(spec, settings, served=served)
    yield _check_device(spec, settings)


def _check_model_file(spec: ModelSpec, settings: Settings, *, served: bool) -> CheckResult:
    path = settings.model_file(spec.file_name)
    try:
        problem = find_weights_problem(spec, path)
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    if problem is None:
        return _ok("model.file", f"{spec.name}: {path}")
    advice = f"fetch it: rmbg models fetch {spec.name}"
    if served:
        text = f"{path} {problem} on this machine, but a worker serves the model"
        return _warn("model.file", text, f"to run a model worker on this machine, {advice}")
    return _fail("model.file", f"{path} {problem}", advice)


def _check_device(spec: ModelSpec, settings: Settings) -> CheckResult:
    device = settings.device
    if device == "cpu":
        return _ok("model.device", "cpu, as RMBG_DEVICE says")
    if spec.engine == "onnx":
        return _check_onnx_device(spec, device)
    if importlib.util.find_spec("torch") is None:
        return _not_installed("torch", spec, "torch")
    return _check_torch_device(device)


def _not_installed(module: str, spec: ModelSpec, extra: str) -> CheckResult:
    text = f"{module}, which runs {spec.name}, is not installed on this machine"
    advice = f"to run a model worker on this machine: pip install 'rmbg-queue[{extra}]'"
    return _warn("model.device", text, advice)


def _check_onnx_device(spec: ModelSpec, device: str) -> CheckResult:
    if importlib.util.find_spec("onnxruntime") is not None:
        from inference.models.onnx import has_cuda  # noqa: PLC0415 - imports numpy

        if has_cuda():
            return _ok("model.device", f"{device}: CUDA, by ONNX Runtime")
    if device == "auto":
        if importlib.util.find_spec("MNN") is None:
            return _not_installed("MNN", spec, "cpu")
        return _ok("model.device", "auto: the CPU")
    return _fail(
        "model.device",
        f"RMBG_DEVICE is {device}, but no ONNX Runtime with CUDA is installed",
        "pip install onnxruntime-gpu, or set RMBG_DEVICE=cpu",
    )


def _check_torch_device(device: str) -> CheckResult:
    from inference.models.birefnet.device import choose_device  # noqa: PLC0415 - imports torch

    try:
        chosen = choose_device(device)
    except ModelError as error:
        return _fail("model.device", str(error), "correct RMBG_DEVICE, or the GPU's driver")
    if device == "auto" and chosen.type == "cpu":
        text = "no GPU was found, and the CPU needs seconds for a picture"
        advice = "if this machine has a GPU, check nvidia-smi; else set RMBG_DEVICE=cpu"
        return _warn("model.device", text, advice)
    return _ok("model.device", f"{device}: {chosen}")


# Workers, queues and webhooks


def _how_to_get_a_worker(settings: Settings, workers: Sequence[Worker]) -> str:
    """Return how the model gets a worker: one that is only drained, else a new one."""
    for worker in workers:
        if worker.drained and worker.alive and worker.ready and worker.model == settings.model:
            return f"let one take jobs again: {_JOBS} undrain {worker.name}"
    # Not that of one that died: it is started again. One that is drained would take nothing.
    taken = {worker.name for worker in workers if worker.alive or worker.drained}
    host = settings.host
    number = next(number for number in count() if f"gpu{number}@{host}" not in taken)
    return (
        f"start one: celery -A tasks.app worker -n gpu{number}@{host} -c 1 "
        f"-Q {routing.gpu_queue(host, number)},{routing.model_queue(settings.model)}"
    )


def _check_worker(worker: Worker) -> CheckResult:
    name = worker.name
    if worker.drained:
        advice = f"to let it take jobs again: {_JOBS} undrain {name}"
        return _warn("workers", f"{name} is drained: {worker.drained}", advice)
    if not worker.alive:
        return _warn("workers", f"{name}: no heartbeat", "restart it")
    if not worker.ready:
        advice = "wait while its model loads; if that takes minutes, see its log"
        return _warn("workers", f"{name} is alive, but its model does not answer", advice)
    text = f"{name}: {worker.model or 'unknown model'}, {worker.seconds:.2f} s a job"
    return _ok("workers", f"{text}, {'busy' if worker.running else 'ready'}")


def _check_io_worker(app: Celery, host: str) -> CheckResult:
    """Check that a worker consumes the queue of webhooks, and so does the periodic work."""
    try:
        answers = app.control.inspect(timeout=_INSPECT_SECONDS).active_queues() or {}
    except (OperationalError, RedisError, OSError) as error:
        text = f"unknown: Redis does not pass on the question ({type(error).__name__})"
        return _warn("workers.io", text, "fix Redis first, as said above, or run this again")
    found = [
        worker
        for worker, queues in answers.items()
        if any(queue["name"] == routing.WEBHOOK_QUEUE for queue in queues)
    ]
    if found:
        return _ok("workers.io", f"{', '.join(sorted(found))}: ready")
    return _fail(
        "workers.io",
        "no I/O worker answers: webhooks and missing messages are not sent",
        f"start one: celery -A tasks.app worker -n io@{host} -Q webhooks -P threads -c 32",
    )


def _check_queues(job_store: JobStore, served: set[str], limit: int) -> Iterator[CheckResult]:
    """Check how many jobs wait, for how long, and whether a worker serves their models."""
    ids = job_store.ids(Status.QUEUED)
    batches = [
        job_store.read(ids[start : start + _READ_BATCH])
        for start in range(0, len(ids), _READ_BATCH)
    ]
    queued = [job for batch in batches for job in batch.jobs]
    unreadable = sum(len(batch.unreadable) for batch in batches)
    if unreadable:
        text = f"{unreadable} queued with records that cannot be read"
        yield _fail("queues.records", text, f"see {_JOBS} stuck")
    running = job_store.counts()[Status.PROCESSING]
    text = f"{len(queued) + unreadable} queued, {running} running"
    if limit and len(queued) + unreadable + running > _NEARLY_FULL * limit:
        advice = "add workers; at RMBG_MAX_PENDING, uploads are answered with 503"
        yield _warn("queues.depth", f"{text}, of at most {limit}", advice)
    else:
        yield _ok("queues.depth", text)
    if queued:
        oldest = min(queued, key=lambda job: job.created_at)
        seconds = time.time() - oldest.created_at
        text = f"the oldest, {oldest.task_id}, has waited for {seconds:.0f} s"
        advice = f"see {_JOBS} stuck; if that is empty, add workers"
        yield _warn("queues.oldest", text, advice, when=seconds > _LONG_WAIT_SECONDS)
    for model, number in sorted(Counter(job.model for job in queued).items()):
        if model not in served:
            text = f"{number} queued for {model}, which no ready worker serves"
            advice = f"start or undrain a worker of {model}, or cancel them: {_JOBS} purge"
            yield _fail("queues", text, advice)


def _check_webhooks(deliveries: DeliveryStore, settings: Settings) -> CheckResult:
    """Check that no webhook was given up, and say which secrets sign them.

    Without RMBG_WEBHOOK_SECRET only owners of API keys have webhooks, which is a valid choice.
    """
    dead = deliveries.dead(_MAX_COUNTED)
    if dead:
        number = f"{_MAX_COUNTED} or more" if len(dead) == _MAX_COUNTED else str(len(dead))
        return _warn(
            "webhooks",
            f"{number} given up; the latest: {dead[0].reason}",
            "see celery -A tasks.app webhooks list --dead; then replay or drop them",
        )
    if settings.webhook_secret is None:
        return _ok("webhooks", "none given up; RMBG_WEBHOOK_SECRET is not set: API keys only")
    return _ok("webhooks", "none given up; signed with RMBG_WEBHOOK_SECRET, or a key's secret")
