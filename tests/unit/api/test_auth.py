"""Which addresses are this machine's alone, and the refusal to serve others without keys."""

import pytest

from api.auth import loopback_only, refuse_public_bind_without_keys
from api.settings import ApiSettings
from tasks.api_keys import ApiKeys
from tasks.errors import SettingsError
from tasks.redis_client import connect

_OPEN = ("0.0.0.0", 8000)  # noqa: S104 - nothing listens in these tests
_LOOPBACK = ("127.0.0.1", 8000)


@pytest.mark.parametrize(
    "address",
    [
        _LOOPBACK,
        ("127.9.9.9", 1),
        ("::1", 8000, 0, 0),
        ("[::1]", 1),
        ("localhost", 1),
        "/run/rmbg.sock",
        b"\0abstract",
    ],
    ids=str,
)
def test_loopback_and_unix_sockets_are_this_machines_alone(address: object) -> None:
    assert loopback_only([address])


@pytest.mark.parametrize(
    "address",
    [_OPEN, ("", 8000), ("::", 1), ("192.168.1.5", 1), ("service.example", 1), 3],
    ids=str,
)
def test_anything_else_is_not(address: object) -> None:
    assert not loopback_only([address])
    assert not loopback_only([_LOOPBACK, address])


class _Keys(ApiKeys):
    def __init__(self, *, there: bool) -> None:
        self._there = there

    def any(self) -> bool:
        return self._there


@pytest.mark.parametrize("auth", ["auto", "on"])
def test_an_open_address_without_keys_is_refused_with_three_ways_out(auth: str) -> None:
    with pytest.raises(SettingsError, match="rmbg keys add") as caught:
        refuse_public_bind_without_keys(ApiSettings.load(auth=auth), [_OPEN], _Keys(there=False))
    assert "127.0.0.1" in str(caught.value)
    assert "RMBG_AUTH=off" in str(caught.value)


@pytest.mark.parametrize(
    ("auth", "address", "keys"),
    [
        ("auto", _OPEN, _Keys(there=True)),
        ("auto", _LOOPBACK, _Keys(there=False)),
        ("off", _OPEN, _Keys(there=False)),
        # Nobody is let in while Redis is away.
        ("auto", _OPEN, ApiKeys(connect("redis://127.0.0.1:1/0"))),
    ],
    ids=["keys", "loopback", "off", "Redis is away"],
)
def test_otherwise_the_service_starts(auth: str, address: tuple[str, int], keys: ApiKeys) -> None:
    refuse_public_bind_without_keys(ApiSettings.load(auth=auth), [address], keys)
