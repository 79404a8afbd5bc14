"""Who asks: an owner, or where a request comes from, as far as trusted proxies say so."""

import pytest

from api.callers import OWNER, caller_of
from tasks.api_keys import ANONYMOUS, Owner


@pytest.mark.parametrize(
    ("peer", "forwarded", "proxies", "caller"),
    [
        ("192.0.2.1", "198.51.100.1", 0, "from 192.0.2.1"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.1", 1, "from 198.51.100.1"),
        ("10.0.0.1", "203.0.113.9,198.51.100.1, 10.0.0.2", 2, "from 198.51.100.1"),
        # Whoever comes past the proxies is who connects.
        ("192.0.2.1", None, 1, "from 192.0.2.1"),
        ("192.0.2.1", "198.51.100.1", 2, "from 192.0.2.1"),
        ("192.0.2.1", "", 1, "from 192.0.2.1"),
        ("::ffff:192.0.2.1", None, 0, "from 192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", None, 0, "from 2001:db8:1:2::/64"),
        ("fe80::1%eth0", None, 0, "from fe80::/64"),
        ("", None, 0, "from "),
        ("10.0.0.1", "unknown" * 99, 1, f"from {('unknown' * 99)[:64]}"),
    ],
)
def test_a_caller_without_a_key_is_where_its_requests_come_from(
    peer: str, forwarded: str | None, proxies: int, caller: str
) -> None:
    environ: dict[str, object] = {"REMOTE_ADDR": peer}
    if forwarded is not None:
        environ["HTTP_X_FORWARDED_FOR"] = forwarded
    assert (
        caller_of({**environ, OWNER: ANONYMOUS}, proxies) == caller_of(environ, proxies) == caller
    )
    assert caller_of({**environ, OWNER: Owner("shop-id", "shop")}, proxies) == "shop-id"
