"""Which addresses of outsiders are called, and which never."""

from collections.abc import Callable, Sequence

import pytest

from tasks.errors import UrlNotAllowedError, UrlUnreachableError
from tasks.net.url_guard import AllowList, UrlGuard

PUBLIC = "93.184.216.34"
NAMES = {
    "localhost": "127.0.0.1",
    "localhost.localdomain": "127.0.0.1",
    "rebind.example": "10.0.0.8",
    "v6.example": "::1",
    "mapped.example": "::ffff:127.0.0.1",
    "zone.example": "fe80::1%eth0",
    "hooks.intra": "10.1.2.3",
    "a.shop.intra": "10.1.2.4",
    "public.example": PUBLIC,
    "xn--bcher-kva.example": PUBLIC,
}


def look_up(host: str, _port: int) -> list[str]:
    return [NAMES[host]] if host in NAMES else []


def guard(allow: str = "") -> UrlGuard:
    return UrlGuard(AllowList.parse(allow), look_up)


HOSTILE = [
    "http://127.0.0.1/",
    "http://127.0.0.1:6379/",
    "https://127.1.2.3/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0177.0.0.1/",
    "http://127.0.0.01/",
    "http://127.0.0.1./",
    "http://0/",
    "http://0.0.0.0/",
    "http://①②⑦.⓪.⓪.①/",
    "http://127。0。0。1/",
    "http://%31%32%37.0.0.1/",
    "http://localhost/",
    "http://LOCALHOST./",
    "http://localhost.localdomain/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.168.1.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://100.64.0.1/",
    "http://192.0.0.8/",
    "http://198.18.0.1/",
    "http://192.88.99.1/",
    "http://203.0.113.5/",
    "http://224.0.0.1/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://[::1]/",
    "http://[::]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::10.0.0.1]/",
    "http://[64:ff9b:1::5db8:d822]/",
    "http://[2002:7f00:1::]/",
    "http://[2002:5db8:d822::1]/",
    "http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/",
    "http://[2001:db8::200:5efe:10.0.0.1]/",
    "http://[2606:4700::5efe:192.168.0.1]/",
    "http://[fe80::5efe:93.184.216.34]/",
    "http://[fd00::5efe:93.184.216.34]/",
    "http://[fd12:3456::200:5efe:93.184.216.34]/",
    "http://[2002:7f00:1::5efe:93.184.216.34]/",
    "http://[2001:0:4136:e378:0:5efe:93.184.216.34]/",
    "http://[ff02::5efe:93.184.216.34]/",
    "http://[fe80::1]/",
    "http://[fe80::1%25eth0]/",
    "http://[fc00::1]/",
    "http://[fec0::1]/",
    "http://[ff02::1]/",
    "http://rebind.example/",
    "http://v6.example/",
    "http://mapped.example/",
    "http://zone.example/",
    "http://user:secret@public.example/",
    "http://public.example@127.0.0.1/",
    "http://public.example\\@127.0.0.1/",
    "http://127.0.0.1 .public.example/",
    "http://public.example/\ud800",
    "http://public.example/?\udfff",
    "http://\ud800.example/",
    "http://public.example:0/",
    "http://public.example:70000/",
    "http://public.example:http/",
    "http://exa mple/",
    "http:///etc/passwd",
    "http://-bad-.example/",
    "file:///etc/passwd",
    "ftp://public.example/a.jpg",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "//127.0.0.1/",
    "javascript:alert(1)",
    "",
]


@pytest.mark.parametrize("url", HOSTILE)
def test_a_hostile_address_is_refused(url: str) -> None:
    with pytest.raises(UrlNotAllowedError) as caught:
        guard().check(url)
    assert "10.0.0.8" not in str(caught.value), "the text must not tell what a name leads to"


@pytest.mark.parametrize(
    ("url", "host", "port", "address", "path"),
    [
        ("http://public.example", "public.example", 80, PUBLIC, "/"),
        ("https://Public.Example/a%20b", "public.example", 443, PUBLIC, "/a%20b"),
        (
            "https://public.example:8443/x?y=1&ü",
            "public.example",
            8443,
            PUBLIC,
            "/x?y=1&%C3%BC",
        ),
        ("http://bücher.example/", "xn--bcher-kva.example", 80, PUBLIC, "/"),
        (f"http://{PUBLIC}/", PUBLIC, 80, PUBLIC, "/"),
        ("http://[2606:4700::1111]/", "2606:4700::1111", 80, "2606:4700::1111", "/"),
        ("http://[2606::5efe:5db8:d822]/", "2606::5efe:5db8:d822", 80, "2606::5efe:5db8:d822", "/"),
        ("http://[64:ff9b::5db8:d822]/", "64:ff9b::5db8:d822", 80, "64:ff9b::5db8:d822", "/"),
    ],
)
def test_a_public_address_is_let_through(
    url: str, host: str, port: int, address: str, path: str
) -> None:
    target = guard().check(url)
    assert (target.host, target.port, target.addresses, target.path) == (
        host,
        port,
        (address,),
        path,
    )


def test_a_fragment_is_not_sent() -> None:
    assert guard().check("http://public.example/a#b").path == "/a"


@pytest.mark.parametrize(
    ("url", "header"),
    [
        ("http://public.example/", "public.example"),
        ("https://public.example:443/", "public.example"),
        ("https://public.example:80/", "public.example:80"),
        ("http://[2606:4700::1111]:81/", "[2606:4700::1111]:81"),
    ],
)
def test_the_host_header_is_the_callers(url: str, header: str) -> None:
    assert guard().check(url).host_header == header


def test_one_private_address_among_several_is_enough_to_refuse() -> None:
    two = UrlGuard(AllowList(), lambda _host, _port: [PUBLIC, "127.0.0.1"])
    with pytest.raises(UrlNotAllowedError):
        two.check("http://public.example/")


def _fails(_host: str, _port: int) -> Sequence[str]:
    raise OSError("no such name")


@pytest.mark.parametrize("resolver", [_fails, lambda _host, _port: []])
def test_an_unknown_host_is_unreachable(resolver: Callable[[str, int], Sequence[str]]) -> None:
    with pytest.raises(UrlUnreachableError, match="does not know the host"):
        UrlGuard(AllowList(), resolver).check("http://public.example/")


@pytest.mark.parametrize(
    ("allow", "url"),
    [
        ("hooks.intra", "http://hooks.intra/"),
        ("HOOKS.intra.", "http://hooks.intra/"),
        (".shop.intra", "http://a.shop.intra/"),
        ("*.shop.intra", "http://a.shop.intra/"),
        ("10.1.0.0/16", "http://hooks.intra/"),
        ("x.intra, 10.1.2.3", "http://10.1.2.3:8080/"),
        ("::1", "http://[::1]/"),
        ("127.0.0.0/8", "http://localhost/"),
    ],
)
def test_the_operator_opens_hosts_and_networks(allow: str, url: str) -> None:
    assert guard(allow).check(url).addresses


@pytest.mark.parametrize(
    ("allow", "url"),
    [
        ("hooks.intra", "http://10.1.2.3/"),
        (".shop.intra", "http://hooks.intra/"),
        ("intra", "http://hooks.intra/"),
        ("10.2.0.0/16", "http://hooks.intra/"),
    ],
)
def test_what_is_opened_opens_nothing_else(allow: str, url: str) -> None:
    with pytest.raises(UrlNotAllowedError):
        guard(allow).check(url)


@pytest.mark.parametrize("entry", ["10.0.0.0/99", "http://hooks.intra", "host:80", "two words"])
def test_a_faulty_list_is_refused_by_name(entry: str) -> None:
    with pytest.raises(ValueError, match="neither a host's name nor a network"):
        AllowList.parse(f"good.intra,{entry}")
