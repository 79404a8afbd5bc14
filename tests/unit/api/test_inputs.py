from typing import Any, cast

import pytest

from api.errors import ApiError
from api.idempotency import parse_key
from api.inputs import ImageInputs
from api.parameters import RemovalJson, load
from tasks.api_keys import ANONYMOUS

MB = 2**20


def _decode(text: str) -> None:
    inputs = ImageInputs(9 * MB, *cast("Any", (None, None, None)))
    inputs.open("image_b64", text, ANONYMOUS)


@pytest.mark.parametrize(
    "text",
    [
        "data:" + "a" * 4 * MB,
        "data:" + "a;" * 2 * MB,
        "data:/" + "a;a=" * MB + "!",
        "data:" + " " * 4 * MB + "!!!!",
        " \n" * 2 * MB + "!!!!",
        "=" * 4 * MB + "!",
    ],
    ids=["letters", "semicolons", "parameters", "spaces", "lines", "padding"],
)
def test_a_long_text_that_is_no_base64_is_refused_in_linear_time(text: str) -> None:
    """Quadratic work on a text of this length takes hours: the timeout of the test ends it."""
    with pytest.raises(ApiError, match="no base64"):
        _decode(text)


@pytest.mark.parametrize("name", ["image_url", "background_url", "webhook_url"])
def test_a_long_address_is_refused_by_its_length_alone(name: str) -> None:
    with pytest.raises(ApiError, match=f"{name}: It has 4194311 characters; the limit is 2048"):
        load(RemovalJson(), {name: "http://" + "a" * 4 * MB})


def test_a_long_idempotency_key_is_refused_by_its_length_alone() -> None:
    with pytest.raises(ApiError, match="Give 1 to 255"):
        parse_key('"' + "\\" * 4 * MB)
