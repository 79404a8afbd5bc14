"""The object store: an S3 bucket for originals and results, with its lifecycle rules."""

import io
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from types import MappingProxyType
from typing import Any, BinaryIO, Final, Protocol
from urllib.parse import urlsplit

import structlog
import urllib3
from minio import Minio
from minio.commonconfig import ENABLED, REPLACE, CopySource, Filter
from minio.error import MinioException, S3Error
from minio.lifecycleconfig import AbortIncompleteMultipartUpload, Expiration, LifecycleConfig, Rule

from tasks.errors import ObjectNotFoundError, ObjectStoreUnavailableError
from tasks.redis_client import PROBE_SECONDS
from tasks.settings import Settings
from tasks.storage import object_keys

_RULE_PREFIX: Final = "rmbg-"

_EXPIRING_PREFIXES: Final = (
    object_keys.ORIGINALS,
    object_keys.BACKGROUNDS,
    object_keys.RESULTS,
    object_keys.UPLOAD_OBJECTS,
)

_log = structlog.get_logger(__name__)


def lifecycle_days(retention_hours: float) -> int:
    """Days after which an object of ours is dropped: always later than the sweeper should have."""
    return math.ceil(retention_hours / 24) + 2


def apply_lifecycle_rules(client: Minio, bucket: str, days: int) -> None:
    """Set the rules, beside those that others made for the bucket.

    A store that knows no such rules, or does not let us set them, is no reason to stop.
    """
    try:
        present = client.get_bucket_lifecycle(bucket)
        before = list(present.rules) if present else []
        foreign = [rule for rule in before if not (rule.rule_id or "").startswith(_RULE_PREFIX)]
        rules = _rules(days)
        if _rule_shape(before) != _rule_shape([*foreign, *rules]):
            client.set_bucket_lifecycle(bucket, LifecycleConfig([*foreign, *rules]))
    except (MinioException, ValueError) as error:
        _log.warning("store.no_lifecycle", bucket=bucket, reason=str(error))


def _rules(days: int) -> list[Rule]:
    expiring = [
        Rule(
            ENABLED,
            rule_filter=Filter(prefix=prefix),
            rule_id=f"{_RULE_PREFIX}{prefix.rstrip('/')}",
            expiration=Expiration(days=days),
        )
        for prefix in _EXPIRING_PREFIXES
    ]
    parts = Rule(
        ENABLED,
        rule_filter=Filter(prefix=object_keys.UPLOAD_OBJECTS),
        rule_id=f"{_RULE_PREFIX}parts",
        abort_incomplete_multipart_upload=AbortIncompleteMultipartUpload(
            days_after_initiation=days
        ),
    )
    return [*expiring, parts]


def _rule_shape(rules: list[Rule]) -> set[tuple[str, int | None]]:
    return {
        (rule.rule_id or "", rule.expiration.days if rule.expiration else None) for rule in rules
    }


#: S3 signs for at most a week.
MAX_PRESIGN_SECONDS: Final = 7 * 24 * 3600

CONNECTIONS: Final = 64

#: Once more, where a connection was dropped or a gateway has nobody behind it.
STALE_RETRIES: Final[Mapping[str, Any]] = MappingProxyType(
    {"total": 1, "backoff_factor": 0.1, "status_forcelist": (502, 503, 504)}
)

_PROBE_KEY: Final = "probe"

_PART_BYTES: Final = 10 * 2**20

#: What S3 puts before the names of metadata.
_METADATA_HEADER: Final = "x-amz-meta-"


class ObjectStore(Protocol):
    """Bytes by key. Every method raises `StoreUnavailableError` when the store does not answer."""

    def put(
        self,
        key: str,
        data: BinaryIO,
        length: int,
        media_type: str,
        *,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Store `length` bytes under a key, with metadata: ASCII, less than 2 kB in all."""

    def metadata(self, key: str) -> dict[str, str]:
        """An object's metadata, names in lower case; `ObjectNotFoundError` if there is none."""

    def list(self, prefix: str) -> Iterator[str]:
        """The keys that begin so."""

    def get(self, key: str) -> bytes:
        """All bytes of an object; `ObjectNotFoundError` if there is none."""

    def copy(self, source: str, target: str, *, metadata: Mapping[str, str] | None = None) -> None:
        """Copy an object within the store, with its media type.

        Args:
            source: the key of what is copied; `ObjectNotFoundError` if there is nothing.
            target: the key of the copy.
            metadata: of the copy; the source's own if none is given.
        """

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""

    def url(self, key: str, *, seconds: int, file_name: str | None = None) -> str:
        """A signed public address, valid for so long; with a name, it downloads under that name."""

    def ensure_bucket(self) -> None:
        """Make the bucket unless it is there."""

    def ping(self) -> None:
        """Raise unless the store answers and the bucket is there."""


@contextmanager
def object_store_errors(key: str = "") -> Iterator[None]:
    """Turns every failure of the store into one of `tasks.errors`."""
    try:
        yield
    except S3Error as error:
        if error.code in {"NoSuchKey", "NoSuchObject", "NoSuchUpload"}:
            raise ObjectNotFoundError(f"There is no object {key!r}.") from error
        raise ObjectStoreUnavailableError(f"The object store refused: {error.code}.") from error
    except (MinioException, urllib3.exceptions.HTTPError, OSError) as error:
        raise ObjectStoreUnavailableError(
            f"The object store does not answer: {type(error).__name__}."
        ) from error


class MinioStore:
    """`ObjectStore` on any S3 server."""

    def __init__(
        self, client: Minio, public_client: Minio, bucket: str, *, days: int | None = None
    ) -> None:
        self._days = days
        self._client = client
        self._public_client = public_client
        self._bucket = bucket

    @classmethod
    def from_settings(
        cls, settings: Settings, pool: urllib3.PoolManager | None = None
    ) -> "MinioStore":
        """Connect lazily, over a pool or one of its own: nothing is sent before the first call."""
        public = settings.s3_public_endpoint or settings.s3_endpoint
        return cls(
            s3_client(settings, str(settings.s3_endpoint), pool),
            s3_client(settings, str(public)),
            settings.s3_bucket,
            days=lifecycle_days(settings.retention_hours),
        )

    @classmethod
    def for_probing(cls, settings: Settings, *, seconds: float) -> "MinioStore":
        """With connections of its own, and giving up after so many seconds."""
        pool = urllib3.PoolManager(timeout=seconds, retries=False)
        client = s3_client(settings, str(settings.s3_endpoint), pool)
        return cls(client, client, settings.s3_bucket)

    def put(
        self,
        key: str,
        data: BinaryIO,
        length: int,
        media_type: str,
        *,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Store `length` bytes under a key, with metadata: ASCII, less than 2 kB in all."""
        with object_store_errors(key):
            self._client.put_object(
                self._bucket,
                key,
                data,
                length,
                content_type=media_type,
                metadata=dict(metadata or {}),
                part_size=_PART_BYTES,
            )

    def metadata(self, key: str) -> dict[str, str]:
        """An object's metadata, names in lower case without their prefix."""
        with object_store_errors(key):
            found = self._client.stat_object(self._bucket, key).metadata or {}
        named = {str(name).lower(): str(value) for name, value in found.items()}
        return {
            name.removeprefix(_METADATA_HEADER): value
            for name, value in named.items()
            if name.startswith(_METADATA_HEADER)
        }

    def list(self, prefix: str) -> Iterator[str]:
        """The keys that begin so, fetched as they are asked for."""
        with object_store_errors(prefix):
            for found in self._client.list_objects(self._bucket, prefix, recursive=True):
                yield str(found.object_name)

    def get(self, key: str) -> bytes:
        """All bytes of an object."""
        with object_store_errors(key):
            answer = self._client.get_object(self._bucket, key)
            try:
                return bytes(answer.read())
            finally:
                answer.close()
                answer.release_conn()

    def copy(self, source: str, target: str, *, metadata: Mapping[str, str] | None = None) -> None:
        """Copy an object within the store, with its media type."""
        with object_store_errors(source):
            copied = CopySource(self._bucket, source)
            if metadata is None:
                self._client.copy_object(self._bucket, target, copied)
                return
            # S3 replaces the media type with the metadata, so it has to be said again.
            found = self._client.stat_object(self._bucket, source).content_type
            self._client.copy_object(
                self._bucket,
                target,
                copied,
                metadata={**metadata, "Content-Type": found or "application/octet-stream"},
                metadata_directive=REPLACE,
            )

    def delete(self, key: str) -> None:
        """Remove an object."""
        with object_store_errors(key):
            self._client.remove_object(self._bucket, key)

    def url(self, key: str, *, seconds: int, file_name: str | None = None) -> str:
        """A signed public address; made here, without asking the store."""
        headers: dict[str, str | list[str] | tuple[str]] = {}
        if file_name:
            headers["response-content-disposition"] = f'attachment; filename="{file_name}"'
        return self._public_client.presigned_get_object(
            self._bucket,
            key,
            expires=timedelta(seconds=max(1, min(seconds, MAX_PRESIGN_SECONDS))),
            response_headers=headers or None,
        )

    def ensure_bucket(self) -> None:
        """Make the bucket unless it is there; two processes may do so at once."""
        with object_store_errors():
            if not self._client.bucket_exists(self._bucket):
                self._make_bucket()
            if self._days is not None:
                apply_lifecycle_rules(self._client, self._bucket, self._days)

    def _make_bucket(self) -> None:
        try:
            self._client.make_bucket(self._bucket)
        except S3Error as error:
            if error.code not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                raise

    def ensure_writable(self) -> None:
        """Make the bucket, and prove that an object can be written to it and removed again.

        A store that has just begun may list its buckets before it takes objects.
        """
        self.ensure_bucket()
        self.put(_PROBE_KEY, io.BytesIO(b"ok"), 2, "text/plain")
        self.delete(_PROBE_KEY)

    def ping(self) -> None:
        """Raise unless the store answers and the bucket is there."""
        with object_store_errors():
            if not self._client.bucket_exists(self._bucket):
                raise ObjectStoreUnavailableError(f"The bucket {self._bucket!r} is not there.")


def s3_client(settings: Settings, endpoint: str, pool: urllib3.PoolManager | None = None) -> Minio:
    """A client of the store at an address, with the settings' keys."""
    address = urlsplit(endpoint)
    return Minio(
        address.netloc,
        access_key=settings.s3_access_key or None,
        secret_key=settings.s3_secret_key.get_secret_value() or None,
        secure=address.scheme == "https",
        # Without a region, signing an address would ask the server for it first.
        region=settings.s3_region,
        http_client=pool or _connection_pool(),
    )


def _connection_pool() -> urllib3.PoolManager:
    return urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=2, read=10),
        maxsize=CONNECTIONS,
        retries=urllib3.Retry(**STALE_RETRIES),
    )


def probe_object_store(settings: Settings, *, seconds: float = PROBE_SECONDS) -> None:
    """Raise `StoreUnavailableError`, which says why, unless the store has the bucket."""
    MinioStore.for_probing(settings, seconds=seconds).ping()
