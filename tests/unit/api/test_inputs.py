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
    inputs.open("image_b64", text, ANONYMOUS, "")


@pytest.mark.parametrize(
    "text",
    [
        "data:" + "a" * 4 * MB,
        "data:/" + "a;a=" * MB + "!",
        "data:" + " \n" * 2 * MB + "!!!!",
        "=" * 4 * MB + "!",
    ],
    ids=["letters", "parameters", "spaces", "padding"],
)
def test_a_long_text_that_is_no_base64_is_refused_in_linear_time(text: str) -> None:
    """Quadratic work on a text of this length takes hours: the timeout of the test ends it."""
    with pytest.raises(ApiError, match="no base64"):
        _decode(text)


@pytest.mark.parametrize(
    ("name", "most"), [("image_url", 4096), ("background_url", 4096), ("webhook_url", 2048)]
)
def test_a_long_address_is_refused_by_its_length_alone(name: str, most: int) -> None:
    with pytest.raises(ApiError, match=f"{name}: It has 4194311 characters; the limit is {most}"):
        load(RemovalJson, {name: "http://" + "a" * 4 * MB})


@pytest.mark.parametrize("url", ["http://b_1.bücher.example/ä", "HTTPS://[2606:4700::1111]/a~b(1)"])
def test_the_guard_alone_judges_addresses(url: str) -> None:
    assert load(RemovalJson, {"image_url": url})["image_url"] == url


@pytest.mark.parametrize("url", ["ftp://a.example/", "a.example/x.jpg", "http://a.example/a b.jpg"])
def test_what_is_no_address_is_refused_with_the_remedy(url: str) -> None:
    with pytest.raises(ApiError, match="begins with http:// or https://, and write a space as %20"):
        load(RemovalJson, {"image_url": url})


def test_a_long_idempotency_key_is_refused_by_its_length_alone() -> None:
    with pytest.raises(ApiError, match="Give 1 to 255"):
        parse_key('"' + "\\" * 4 * MB)
