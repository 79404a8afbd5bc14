"""Which addresses are this machine's alone, and the refusal to serve others without keys."""

import pytest

from api.auth import loopback_only, refuse_public_bind_without_keys
from api.settings import ApiSettings
from tasks.api_keys import ApiKeys
from tasks.errors import SettingsError
from tasks.redis_client import connect


@pytest.mark.parametrize(
    "address",
    [("127.0.0.1", 8000), ("127.9.9.9", 1), ("::1", 8000, 0, 0), ("[::1]", 1), ("localhost", 1)],
    ids=str,
)
def test_loopback_is_this_machine_alone(address: object) -> None:
    assert loopback_only([address])


@pytest.mark.parametrize(
    "address",
    [("0.0.0.0", 8000), ("", 8000), ("::", 1), ("192.168.1.5", 1), ("service.example", 1), 3],  # noqa: S104 - what is to be refused
    ids=str,
)
def test_anything_else_is_not(address: object) -> None:
    assert not loopback_only([address])
    assert not loopback_only([("127.0.0.1", 1), address])


def test_a_unix_socket_is_local() -> None:
    assert loopback_only(["/run/rmbg.sock", b"\0abstract"])


class _Keys(ApiKeys):
    def __init__(self, *, there: bool) -> None:
        self._there = there

    def any(self) -> bool:
        return self._there


_OPEN = [("0.0.0.0", 8000)]  # noqa: S104 - nothing listens in this test


@pytest.mark.parametrize("auth", ["auto", "on"])
def test_an_open_address_without_keys_is_refused_with_three_ways_out(auth: str) -> None:
    with pytest.raises(SettingsError, match="rmbg keys add") as caught:
        refuse_public_bind_without_keys(ApiSettings.load(auth=auth), _OPEN, _Keys(there=False))
    assert "127.0.0.1" in str(caught.value)
    assert "RMBG_AUTH=off" in str(caught.value)


def test_keys_or_loopback_or_the_operators_word_will_do() -> None:
    refuse_public_bind_without_keys(ApiSettings.load(), _OPEN, _Keys(there=True))
    refuse_public_bind_without_keys(ApiSettings.load(), [("127.0.0.1", 8000)], _Keys(there=False))
    refuse_public_bind_without_keys(ApiSettings.load(auth="off"), _OPEN, _Keys(there=False))


def test_while_redis_is_away_the_start_goes_on_since_nobody_is_let_in() -> None:
    refuse_public_bind_without_keys(
        ApiSettings.load(), _OPEN, ApiKeys(connect("redis://127.0.0.1:1/0"))
    )
