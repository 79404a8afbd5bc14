"""Which addresses are this machine's alone, and the refusal to serve others without keys."""

from unittest.mock import Mock

import pytest

from api.auth import loopback_only, refuse_public_bind_without_keys
from api.settings import ApiSettings
from tasks.api_keys import ApiKeys
from tasks.errors import SettingsError
from tasks.redis_client import connect

_OPEN = ("0.0.0.0", 8000)  # noqa: S104 - nothing listens in these tests
_LOOPBACK = ("127.0.0.1", 8000)


def test_loopback_and_unix_sockets_are_this_machines_alone_and_nothing_else_is() -> None:
    own = [("127.9.9.9", 1), ("::1", 8000, 0, 0), ("[::1]", 1), ("localhost", 1)]
    assert loopback_only([_LOOPBACK, *own, "/run/rmbg.sock", b"\0abstract"])
    for address in (_OPEN, ("", 8000), ("::", 1), ("192.168.1.5", 1), ("service.example", 1), 3):
        assert not loopback_only([_LOOPBACK, address]), address


def _keys(*, there: bool) -> ApiKeys:
    return Mock(ApiKeys, any=lambda: there)


@pytest.mark.parametrize("auth", ["auto", "on"])
def test_an_open_address_without_keys_is_refused_with_three_ways_out(auth: str) -> None:
    with pytest.raises(SettingsError, match="rmbg keys add") as caught:
        refuse_public_bind_without_keys(ApiSettings.load(auth=auth), [_OPEN], _keys(there=False))
    assert "127.0.0.1" in str(caught.value)
    assert "RMBG_AUTH=off" in str(caught.value)


@pytest.mark.parametrize(
    ("auth", "address", "keys"),
    [
        ("auto", _OPEN, _keys(there=True)),
        ("auto", _LOOPBACK, _keys(there=False)),
        ("off", _OPEN, _keys(there=False)),
        # Nobody is let in while Redis is away.
        ("auto", _OPEN, ApiKeys(connect("redis://127.0.0.1:1/0"))),
    ],
    ids=["keys", "loopback", "off", "Redis is away"],
)
def test_otherwise_the_service_starts(auth: str, address: tuple[str, int], keys: ApiKeys) -> None:
    refuse_public_bind_without_keys(ApiSettings.load(auth=auth), [address], keys)
