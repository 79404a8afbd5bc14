"""The object store: one S3 bucket, the keys of all objects in it, and its lifecycle rules.

originals/<task>                      the uploaded picture
manifests/<task>                      what its record can be rebuilt from
backgrounds/<task>                    the background picture
results/<task>/<run>.<extension>      the cutout of one run, or a copy of an equal job's
uploads/<upload>/whole, tail-<bytes>  a resumable upload, or the bytes after its last whole part
improvements/<name>                   what callers of remove.bg's `improve` send in
"""
# ruff: noqa: SLF001 - minio offers multipart uploads by parts only in methods that begin with `_`

import ctypes
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final, Self
from urllib.parse import quote, unquote_plus, urlsplit
from xml.etree.ElementTree import ParseError, fromstring

import structlog
import urllib3
from minio import Minio
from minio.commonconfig import ENABLED, REPLACE, CopySource, Filter
from minio.datatypes import Part
from minio.error import MinioException, S3Error
from minio.lifecycleconfig import AbortIncompleteMultipartUpload, Expiration, LifecycleConfig, Rule

from tasks.errors import (
    ObjectNotFoundError,
    ObjectStoreDeniedError,
    ObjectStoreFullError,
    ObjectStoreUnavailableError,
)
from tasks.redis_client import PROBE_SECONDS
from tasks.s3_access import RoleCredentials, explain_failure, is_denied, region_of
from tasks.settings import Settings, aws_variables

#: Connections of one pool.
CONNECTIONS: Final = 64
#: One retry, for a connection that was dropped or a gateway without a server behind it, and none
#: for a certificate that is not trusted.
STALE_RETRIES: Final[Mapping[str, Any]] = MappingProxyType(
    {"total": 1, "other": 0, "backoff_factor": 0.1, "status_forcelist": (502, 503, 504)}
)

_PART_BYTES: Final = 10 * 2**20
_STREAM_BYTES: Final = 2**18
#: S3's prefix of the names of metadata.
_METADATA_HEADER: Final = "x-amz-meta-"
_RULE_PREFIX: Final = "rmbg-"
#: Ends of the codes by which a store says that it has no space, or that a quota is used up.
_FULL_CODES: Final = ("StorageFull", "QuotaExceeded", "InsufficientStorage")
#: The error of a full disk, in lower case.
_NO_SPACE: Final = "no space left on device"

_log = structlog.get_logger(__name__)

ORIGINALS: Final = "originals/"
MANIFESTS: Final = "manifests/"
BACKGROUNDS: Final = "backgrounds/"
RESULTS: Final = "results/"
UPLOAD_OBJECTS: Final = "uploads/"
IMPROVEMENTS: Final = "improvements/"
#: All prefixes; the bucket's lifecycle rules cover each of them.
PREFIXES: Final = (ORIGINALS, MANIFESTS, BACKGROUNDS, RESULTS, UPLOAD_OBJECTS, IMPROVEMENTS)


def original_key(task_id: str) -> str:
    """Return the key of a task's uploaded picture."""
    return f"{ORIGINALS}{task_id}"


def manifest_key(task_id: str) -> str:
    """Return the key of a task's manifest."""
    return f"{MANIFESTS}{task_id}"


def background_key(task_id: str) -> str:
    """Return the key of a task's background picture."""
    return f"{BACKGROUNDS}{task_id}"


def results_prefix(task_id: str) -> str:
    """Return the prefix of the keys of all results of a task."""
    return f"{RESULTS}{task_id}/"


def result_key(task_id: str, token: str, extension: str) -> str:
    """Return the key of one run's result; the end of the lease's token tells the runs apart."""
    return f"{results_prefix(task_id)}{token.rpartition('/')[2]}.{extension}"


def copied_result_key(task_id: str, result: str) -> str:
    """Return the key of a task's copy of another task's result: one key for each such result."""
    return f"{results_prefix(task_id)}{result.rpartition('/')[2]}"


def upload_prefix(upload_id: str) -> str:
    """Return the prefix of the keys of all objects of a resumable upload."""
    return f"{UPLOAD_OBJECTS}{upload_id}/"


def task_id_of_object(key: str) -> str:
    """Return the task of an original, a manifest, a background or a result."""
    return key.split("/")[1]


def upload_id_of(key: str) -> str:
    """Return the upload of an object below `uploads/`."""
    return key.removeprefix(UPLOAD_OBJECTS).partition("/")[0]


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object, or an unfinished multipart upload (which has an id), in a listing."""

    key: str
    modified: datetime
    multipart_id: str = ""
    #: In bytes; 0 for an upload.
    size: int = 0


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """Reads and writes objects by key.

    Every method raises `ObjectStoreUnavailableError` if the store does not answer or refuses, and
    those that read an object raise `ObjectNotFoundError` if there is none.
    """

    client: Minio
    #: Signs URLs for the address at which callers reach the store.
    public_client: Minio
    bucket: str
    #: How long a signed URL works at most; S3 allows a week.
    url_seconds: int
    #: The age at which the bucket itself drops an object; None sets no rules.
    lifecycle_days: int | None = None
    #: The folder of a store on this machine that does not sync what it has taken.
    sync_dir: Path | None = None
    #: The role whose credentials sign; None if keys do.
    role: RoleCredentials | None = None

    @classmethod
    def from_settings(cls, settings: Settings, pool: urllib3.PoolManager | None = None) -> Self:
        """Build a store over a pool, or one of its own; nothing is sent before the first call."""
        public = settings.s3_public_endpoint or settings.s3_endpoint
        role = role_credentials(settings)
        return cls(
            s3_client(settings, str(settings.s3_endpoint), pool, role=role),
            s3_client(settings, str(public), role=role),
            settings.s3_bucket,
            settings.url_seconds,
            lifecycle_days=lifecycle_days(settings.retention_hours),
            sync_dir=settings.s3_sync_dir,
            role=role,
        )

    def ping(self) -> None:
        """Raise unless the store answers and has the bucket."""
        with object_store_errors():
            if not self.client.bucket_exists(self.bucket):
                raise ObjectStoreUnavailableError(
                    f"The object store has no bucket {self.bucket!r}; the service creates it "
                    "when it starts, if its access key may."
                )

    def ensure_bucket(self, *, shorten: bool = False) -> None:
        """Create the bucket if it is missing, and set its lifecycle rules.

        Rules that leave objects more time stay unless they are to be shortened.
        """
        with object_store_errors():
            if not self.client.bucket_exists(self.bucket):
                try:
                    self.client.make_bucket(self.bucket)
                except S3Error as error:
                    # Another process may have created it meanwhile.
                    if error.code not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                        raise
            if self.lifecycle_days is not None:
                apply_lifecycle_rules(
                    self.client, self.bucket, self.lifecycle_days, shorten=shorten
                )

    def has_lifecycle_rules(self, *, shorten: bool = False) -> bool:
        """Return whether `ensure_bucket` would leave the bucket's lifecycle rules as they are."""
        with object_store_errors():
            days = self.lifecycle_days
            return days is None or not _rules_to_set(
                self.client, self.bucket, days, shorten=shorten
            )

    def put(
        self, key: str, data: BinaryIO, length: int, media_type: str, *, lasting: bool = True
    ) -> None:
        """Store `length` bytes under a key.

        What need not be `lasting` outlives a power failure from the next object on that is.
        """
        with self._stored(key, lasting=lasting):
            self.client.put_object(
                self.bucket,
                key,
                data,
                length,
                content_type=media_type,
                part_size=_PART_BYTES,
            )

    def get(self, key: str) -> bytes:
        """Return all bytes of an object."""
        return b"".join(self.chunks(key))

    def chunks(self, key: str, part: tuple[int, int] | None = None) -> Iterator[bytes]:
        """Yield an object in chunks of 256 KiB, or the part from one byte up to another."""
        start, stop = part or (0, 0)
        with object_store_errors(key):
            answer = self.client.get_object(self.bucket, key, start, stop - start)
            try:
                yield from answer.stream(_STREAM_BYTES)
            finally:
                answer.close()
                answer.release_conn()

    def size(self, key: str) -> int:
        """Return an object's length in bytes."""
        with object_store_errors(key):
            return int(self.client.stat_object(self.bucket, key).size or 0)

    def metadata(self, key: str) -> dict[str, str]:
        """Return an object's metadata, names in lower case without S3's prefix."""
        with object_store_errors(key):
            found = self.client.stat_object(self.bucket, key).metadata or {}
        named = {str(name).lower(): str(value) for name, value in found.items()}
        return {
            name.removeprefix(_METADATA_HEADER): value
            for name, value in named.items()
            if name.startswith(_METADATA_HEADER)
        }

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys below a prefix, fetched as they are consumed."""
        with object_store_errors(prefix):
            for found in self.client.list_objects(self.bucket, prefix, recursive=True):
                yield str(found.object_name)

    def list_entries(self, prefix: str) -> Iterator[ListedObject]:
        """Yield the objects below a prefix with their times, fetched as they are consumed."""
        with object_store_errors(prefix):
            for found in self.client.list_objects(self.bucket, prefix, recursive=True):
                if found.last_modified is not None:
                    yield ListedObject(
                        str(found.object_name), found.last_modified, size=int(found.size or 0)
                    )

    def copy(
        self, source: str, target: str, *, media_type: str | None = None, lasting: bool = True
    ) -> None:
        """Copy an object within the store; `put` describes `lasting`.

        With a media type, the copy has that one and no metadata; else it has the source's.
        """
        replaced: dict[str, Any] = {}
        if media_type is not None:
            replaced = {"metadata": {"Content-Type": media_type}, "metadata_directive": REPLACE}
        with self._stored(source, lasting=lasting):
            self.client.copy_object(
                self.bucket, target, CopySource(self.bucket, source), **replaced
            )

    def delete(self, key: str) -> None:
        """Remove an object, if it exists."""
        with object_store_errors(key):
            self.client.remove_object(self.bucket, key)

    def url_lifetime(self) -> float:
        """Return for how many seconds a URL works that is signed now.

        That is `url_seconds`, or less if the credentials of a role end before.
        """
        if self.role is None:
            return self.url_seconds
        return min(self.url_seconds, self.role.seconds_left(self.role.retrieve()))

    def url(self, key: str, *, seconds: int, file_name: str | None = None) -> str:
        """Sign a public URL for so many seconds, `url_seconds` at most, without asking the store.

        Browsers download the object under the file name, if there is one.
        """
        headers: dict[str, str | list[str] | tuple[str]] = {}
        if file_name:
            headers["response-content-disposition"] = attachment(file_name)
        return self.public_client.presigned_get_object(
            self.bucket,
            key,
            expires=timedelta(seconds=max(1, min(seconds, self.url_seconds))),
            response_headers=headers or None,
        )

    def begin_multipart(self, key: str) -> str:
        """Begin a multipart upload and return its id."""
        with object_store_errors(key):
            return self.client._create_multipart_upload(self.bucket, key, {})

    def put_part(self, key: str, multipart_id: str, number: int, data: bytes) -> str:
        """Store a part, numbered from 1, in place of an earlier one of that number.

        Returns its ETag; raises `ObjectNotFoundError` if the multipart upload no longer exists.
        """
        with self._stored(key):
            return self.client._upload_part(self.bucket, key, data, None, multipart_id, number)

    def complete_multipart(self, key: str, multipart_id: str, etags: Sequence[str]) -> None:
        """Make one object of the parts, in this order; raises what `put_part` raises."""
        parts = [Part(number, etag) for number, etag in enumerate(etags, 1)]
        with self._stored(key):
            self.client._complete_multipart_upload(self.bucket, key, multipart_id, parts)

    def abort_multipart(self, key: str, multipart_id: str) -> None:
        """Drop a multipart upload with its parts, if it exists."""
        try:
            with object_store_errors(key):
                self.client._abort_multipart_upload(self.bucket, key, multipart_id)
        except ObjectNotFoundError:
            return

    def list_multipart(self, prefix: str) -> Sequence[ListedObject]:
        """Return the multipart uploads below a prefix that are not finished, 1,000 at most."""
        asked: dict[str, str | list[str] | tuple[str]] = {
            "uploads": "",
            "prefix": prefix,
            "encoding-type": "url",
            "max-uploads": "1000",
        }
        with object_store_errors(prefix):
            answer = self.client._execute("GET", self.bucket, query_params=asked)
            return _read_uploads(answer.data.decode())

    @contextmanager
    def _stored(self, key: str, *, lasting: bool = True) -> Iterator[None]:
        """Sync what a call in the block has stored, where the store itself does not."""
        with object_store_errors(key):
            yield
            if lasting and self.sync_dir is not None:
                sync_disk(self.sync_dir)


def sync_disk(folder: Path) -> None:
    """Wait until all that any process has written to a folder's disk outlives a power failure.

    One sync of the disk costs less than one of each file that a store has changed: its volume, the
    volume's index and the journals of its directory.

    Raises:
        OSError: the disk failed to write.
    """
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:  # macOS
        os.sync()
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        if syncfs(handle) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(handle)


def attachment(file_name: str) -> str:
    """Return a Content-Disposition with the name in UTF-8 (RFC 6266), and in ASCII for the rest."""
    plain = "".join(
        each if " " <= each <= "~" and each not in '"\\%' else "_" for each in file_name
    )
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(file_name, safe='')}"


def _read_uploads(text: str) -> list[ListedObject]:
    """Parse S3's list of multipart uploads.

    SeaweedFS tells their times in its own time zone, which the client's parser refuses.
    """
    listed = fromstring(text)  # noqa: S314 - of the store that is trusted with all pictures
    is_encoded = listed.findtext("{*}EncodingType") == "url"
    found = []
    for upload in listed.iterfind("{*}Upload"):
        key, upload_id, begun = (
            upload.findtext(f"{{*}}{name}", "") for name in ("Key", "UploadId", "Initiated")
        )
        if begun:
            name = unquote_plus(key) if is_encoded else key
            found.append(ListedObject(name, datetime.fromisoformat(begun), upload_id))
    return found


@contextmanager
def object_store_errors(key: str = "") -> Iterator[None]:
    """Turn the S3 client's errors into those of `tasks.errors`."""
    try:
        yield
    except S3Error as error:
        if error.code in {"NoSuchKey", "NoSuchObject", "NoSuchUpload"}:
            raise ObjectNotFoundError(f"There is no object {key!r}.") from error
        if _says_full(error):
            raise ObjectStoreFullError(f"The object store is full: {error.code}.") from error
        kind = ObjectStoreDeniedError if is_denied(error) else ObjectStoreUnavailableError
        raise kind(explain_failure(error)) from error
    except (MinioException, urllib3.exceptions.HTTPError, ParseError, OSError) as error:
        raise ObjectStoreUnavailableError(explain_failure(error)) from error


def _says_full(error: S3Error) -> bool:
    """Return whether a store has no space: MinIO, Ceph or one that passes its disk's error on."""
    return (
        error.response.status == HTTPStatus.INSUFFICIENT_STORAGE
        or (error.code or "").endswith(_FULL_CODES)
        or _NO_SPACE in (error.message or "").lower()
    )


def probe_object_store(
    settings: Settings, role: RoleCredentials | None, *, seconds: float = PROBE_SECONDS
) -> None:
    """Raise `ObjectStoreUnavailableError` unless the store answers in time and has the bucket.

    Its connection is new, and its credentials are the role's that a process has already.
    """
    client = impatient_client(settings, seconds, role)
    ObjectStore(client, client, settings.s3_bucket, settings.url_seconds).ping()


def impatient_client(
    settings: Settings, seconds: float, role: RoleCredentials | None = None
) -> Minio:
    """Build a client that waits so long for an answer, and never asks again."""
    pool = urllib3.PoolManager(timeout=seconds, retries=False, ca_certs=authorities(settings))
    return s3_client(settings, str(settings.s3_endpoint), pool, role=role)


def s3_client(
    settings: Settings,
    endpoint: str,
    pool: urllib3.PoolManager | None = None,
    *,
    role: RoleCredentials | None = None,
) -> Minio:
    """Build a client for an endpoint, with the keys of the settings or a role's credentials."""
    address = urlsplit(endpoint)
    role = role or role_credentials(settings)
    client = Minio(
        address.netloc,
        access_key=settings.s3_access_key or None,
        secret_key=settings.s3_secret_key.get_secret_value() or None,
        secure=address.scheme == "https",
        # Without a region, the client asks the server for it before it signs a URL.
        region=_region(settings),
        credentials=role,
        http_client=pool
        or urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=2, read=10),
            maxsize=CONNECTIONS,
            retries=urllib3.Retry(**STALE_RETRIES),
            ca_certs=authorities(settings),
        ),
    )
    if settings.s3_addressing_style == "path":
        client.disable_virtual_style_endpoint()  # type: ignore[no-untyped-call] # minio's
    elif settings.s3_addressing_style == "virtual":
        client.enable_virtual_style_endpoint()  # type: ignore[no-untyped-call] # minio's
    return client


def authorities(settings: Settings) -> str | None:
    """Return the file of the object store's authorities, for urllib3; None for the system's."""
    return str(settings.s3_ca_file) if settings.s3_ca_file else None


def role_credentials(settings: Settings) -> RoleCredentials | None:
    """Build what renews the credentials of a role, if the settings ask for one."""
    if settings.s3_credentials != "aws":
        return None
    return RoleCredentials(aws_variables(), region=_region(settings), ca_file=settings.s3_ca_file)


def _region(settings: Settings) -> str:
    return settings.s3_region or region_of(str(settings.s3_endpoint))


def lifecycle_days(retention_hours: float) -> int:
    """Return the age in days at which the bucket drops an object, later than the sweeper does."""
    return math.ceil(retention_hours / 24) + 2


def apply_lifecycle_rules(client: Minio, bucket: str, days: int, *, shorten: bool = False) -> None:
    """Set the service's lifecycle rules beside the bucket's other ones.

    They are a backstop for the retention sweeper: a store that does not support or permit them is
    logged and used without.
    """
    try:
        if rules := _rules_to_set(client, bucket, days, shorten=shorten):
            client.set_bucket_lifecycle(bucket, LifecycleConfig(rules))
    except (MinioException, ValueError) as error:
        _log.warning("store.no_lifecycle", bucket=bucket, reason=str(error))


def _rules_to_set(client: Minio, bucket: str, days: int, *, shorten: bool) -> list[Rule]:
    """Return all rules that the bucket should have; none if it has them.

    A rule is about objects that are there already, too. Those of a longer retention have been
    promised to be kept for it, so that rules become shorter on request alone.
    """
    present = client.get_bucket_lifecycle(bucket)
    before = list(present.rules) if present else []
    others = [rule for rule in before if not (rule.rule_id or "").startswith(_RULE_PREFIX)]
    if not shorten:
        own = (rule.expiration for rule in before if rule not in others)
        days = max([days, *(each.days for each in own if each and each.days)])
    rules = [*others, *_rules(days)]
    return rules if _rule_shape(before) != _rule_shape(rules) else []


def _rules(days: int) -> list[Rule]:
    expiring = [
        Rule(
            ENABLED,
            rule_filter=Filter(prefix=prefix),
            rule_id=f"{_RULE_PREFIX}{prefix.rstrip('/')}",
            expiration=Expiration(days=days),
        )
        for prefix in PREFIXES
    ]
    parts = Rule(
        ENABLED,
        rule_filter=Filter(prefix=UPLOAD_OBJECTS),
        rule_id=f"{_RULE_PREFIX}parts",
        abort_incomplete_multipart_upload=AbortIncompleteMultipartUpload(
            days_after_initiation=days
        ),
    )
    return [*expiring, parts]


def _rule_shape(rules: Sequence[Rule]) -> set[tuple[str, int | None]]:
    return {
        (rule.rule_id or "", rule.expiration.days if rule.expiration else None) for rule in rules
    }
