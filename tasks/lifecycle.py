"""The net below the sweeper: rules by which the store itself drops what is too old."""

import math
from typing import Final

import structlog
from minio import Minio
from minio.commonconfig import ENABLED, Filter
from minio.error import MinioException
from minio.lifecycleconfig import (
    AbortIncompleteMultipartUpload,
    Expiration,
    LifecycleConfig,
    Rule,
)

from tasks import keys

_OURS: Final = "rmbg-"
_PREFIXES: Final = (keys.ORIGINALS, keys.BACKGROUNDS, keys.RESULTS, keys.UPLOADED)

_log = structlog.get_logger(__name__)


def net_days(retention_hours: float) -> int:
    """Days after which an object of ours is dropped: always later than the sweeper should have."""
    return math.ceil(retention_hours / 24) + 2


def spread_net(client: Minio, bucket: str, days: int) -> None:
    """Set the rules, beside those that others made for the bucket.

    A store that knows no such rules, or does not let us set them, is no reason to stop.
    """
    try:
        present = client.get_bucket_lifecycle(bucket)
        before = list(present.rules) if present else []
        foreign = [rule for rule in before if not (rule.rule_id or "").startswith(_OURS)]
        rules = _rules(days)
        if _shape(before) != _shape([*foreign, *rules]):
            client.set_bucket_lifecycle(bucket, LifecycleConfig([*foreign, *rules]))
    except (MinioException, ValueError) as error:
        _log.warning("store.no_lifecycle", bucket=bucket, reason=str(error))


def _rules(days: int) -> list[Rule]:
    expiring = [
        Rule(
            ENABLED,
            rule_filter=Filter(prefix=prefix),
            rule_id=f"{_OURS}{prefix.rstrip('/')}",
            expiration=Expiration(days=days),
        )
        for prefix in _PREFIXES
    ]
    parts = Rule(
        ENABLED,
        rule_filter=Filter(prefix=keys.UPLOADED),
        rule_id=f"{_OURS}parts",
        abort_incomplete_multipart_upload=AbortIncompleteMultipartUpload(
            days_after_initiation=days
        ),
    )
    return [*expiring, parts]


def _shape(rules: list[Rule]) -> set[tuple[str, int | None]]:
    return {
        (rule.rule_id or "", rule.expiration.days if rule.expiration else None) for rule in rules
    }
