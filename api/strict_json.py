"""Reads JSON as RFC 8259 has it, so that whatever was read can be written again."""

import json
from typing import Any, Final, NoReturn

from flask.json.provider import DefaultJSONProvider

#: What is nested deeper is no parameter of this API, and would only wear out the stack.
_MOST_NESTED: Final = 32


def read_json(text: str | bytes) -> Any:  # noqa: ANN401 - any JSON
    """Parse a document.

    Raises:
        ValueError: it is no JSON, holds NaN, infinity or half a character, or is nested too deep.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("It is nested too deep.") from error
    _check(value)
    return value


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON.")


def _check(value: object) -> None:
    layer = [value]
    for _ in range(_MOST_NESTED):
        layer = [part for each in layer for part in _parts(each)]
        if not layer:
            return
    raise ValueError("It is nested too deep.")


def _parts(value: object) -> list[object]:
    if isinstance(value, str) and not value.isascii():
        value.encode()  # half of a surrogate pair cannot be: a ValueError
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return value if isinstance(value, list) else []


class StrictJsonProvider(DefaultJSONProvider):
    """Flask's own, but for what it reads."""

    # The envelope reads best in its own order.
    sort_keys = False

    def loads(self, s: str | bytes, **_: Any) -> Any:  # noqa: ANN401 - the base class's
        """Parse a request's body; see `read_json`."""
        return read_json(s)
