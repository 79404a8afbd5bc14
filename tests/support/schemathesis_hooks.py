"""What `schemathesis` needs to know of this API, and may not do."""

from collections.abc import Callable
from typing import Any

import schemathesis
from schemathesis.generation.jsonschema import strategy
from schemathesis.specs.openapi.negative import _strip_binary

_ADDRESSES = ("image_url", "background_url", "webhook_url")

schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: dict[str, Any]) -> None:  # noqa: ANN401 - no types
    """Hosts of its own invention are not looked up: the guard refuses this one as it stands."""
    if isinstance(case.body, dict):
        for name in _ADDRESSES:
            if isinstance(case.body.get(name), str) and "://" in case.body[name]:
                case.body[name] = "http://127.0.0.1:9/picture.jpg"


_validator = strategy._validator


def _validator_of_forms(schema: Any) -> Callable[[Any], bool]:  # noqa: ANN401 - no types
    """Judge a form without the bytes of its files, which `jsonschema_rs` cannot read.

    Schemathesis 4.32.5 does so where it checks a wrong form, but not where it draws one that has a
    field too many: "Unsupported type: 'Binary'", after some hundred examples.
    """
    is_valid = _validator(schema)
    return lambda value: is_valid(_strip_binary(value))


strategy._validator = _validator_of_forms  # type: ignore[assignment] # theirs is cached
