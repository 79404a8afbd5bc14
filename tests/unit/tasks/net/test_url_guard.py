"""Which addresses of outsiders are called, and which never."""

from threading import Event
from unittest.mock import Mock

import pytest
from structlog.testing import capture_logs

from tasks.errors import (
    OutboundRequestError,
    UrlNotAllowedError,
    UrlTimeoutError,
    UrlUnreachableError,
)
from tasks.net.http_client import Deadline, HttpClient
from tasks.net.url_guard import AllowList, UrlGuard

PUBLIC = "93.184.216.34"
INSIDE = ["127.0.0.1", "10.0.0.8", "::1", "::ffff:127.0.0.1", "fe80::1%eth0"]
NAMES = {
    "app": "10.1.2.5",
    "hooks.intra": "10.1.2.3",
    "a.shop.intra": "10.1.2.4",
    "public.example": PUBLIC,
    "xn--bcher-kva.example": PUBLIC,
    "my_shop.example": PUBLIC,
}


def guard(allow: str = "") -> UrlGuard:
    def look_up(host: str, _port: int) -> list[str]:
        return [NAMES[host]] if host in NAMES else []

    return UrlGuard(AllowList.parse(allow), look_up)


#: By line: loopback in IPv4, in other digits and as a name; networks that are private, shared,
#: for tests, multicast or reserved; the same in IPv6; addresses that hold one of IPv4: mapped,
#: translated, 6to4, Teredo and ISATAP; wrong users, ports and names.
HOSTILE_HOSTS = r"""
127.0.0.1 127.0.0.1:6379 127.1.2.3 127.1 2130706433 0x7f000001 0x7f.0.0.1 0177.0.0.1
127.0.0.01 127.0.0.1. 0 0.0.0.0 ①②⑦.⓪.⓪.① 127。0。0。1 %31%32%37.0.0.1
localhost LOCALHOST. redis a.localhost printer.local db.prod.internal nas.home.arpa
10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 100.64.0.1
192.0.0.8 198.18.0.1 192.88.99.1 203.0.113.5 224.0.0.1 240.0.0.1 255.255.255.255 168.63.129.16
[::1] [::1 [::] [0:0:0:0:0:0:0:1] [fe80::1] [fe80::1%25eth0] [fc00::1] [fec0::1] [ff02::1]
[::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1] [64:ff9b::10.0.0.1] [64:ff9b:1::5db8:d822]
[2002:7f00:1::] [2002:5db8:d822::1] [2001:0:4136:e378:8000:63bf:3fff:fdd2]
[2001:db8::200:5efe:10.0.0.1] [2606:4700::5efe:192.168.0.1] [fe80::5efe:93.184.216.34]
[fd00::5efe:93.184.216.34] [fd12:3456::200:5efe:93.184.216.34]
[2002:7f00:1::5efe:93.184.216.34] [2001:0:4136:e378:0:5efe:93.184.216.34]
[ff02::5efe:93.184.216.34]
user:secret@public.example public.example@127.0.0.1 public.example\@127.0.0.1
public.example:0 public.example:70000 public.example:http -bad-.example
"""
HOSTILE = [
    *(f"http://{host}/" for host in HOSTILE_HOSTS.split()),
    "https://127.1.2.3/",
    "http://169.254.169.254/latest/meta-data/",
    "http://127.0.0.1 .public.example/",
    "http://public.example/\ud800",
    "http://public.example/\x9b",
    "http://public.example/?\udfff",
    "http://\ud800.example/",
    "http://exa mple/",
    "http:///etc/passwd",
    "file:///etc/passwd",
    "ftp://public.example/a.jpg",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "//127.0.0.1/",
    "javascript:alert(1)",
    f"http://{PUBLIC}/".ljust(4097, "a"),
    "",
]


@pytest.mark.parametrize("url", HOSTILE)
def test_a_hostile_address_is_refused_by_its_text(url: str) -> None:
    for check in (guard().check, guard().check_text):
        with pytest.raises(UrlNotAllowedError):
            check(url)


def test_the_length_of_a_host_is_judged_before_its_letters() -> None:
    letters = "".join(map(chr, range(0x4E00, 0x4E00 + 4_000)))
    with pytest.raises(UrlNotAllowedError, match="longer than 254 characters"):
        guard().check(f"http://{letters}/")


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("http://public.example", "public.example", 80, "/"),
        ("https://Public.Example/a%20b#c", "public.example", 443, "/a%20b"),
        ("https://public.example:8443/x?y=1&ü", "public.example", 8443, "/x?y=1&%C3%BC"),
        ("http://bücher.example/", "xn--bcher-kva.example", 80, "/"),
        ("http://my_shop.example/", "my_shop.example", 80, "/"),
        (f"http://{PUBLIC}/", PUBLIC, 80, "/"),
        (f"http://{PUBLIC}/".ljust(4096, "a"), PUBLIC, 80, "/" + "a" * (4096 - 21)),
        ("http://[2606:4700::1111]/", "2606:4700::1111", 80, "/"),
        ("http://[::ffff:5db8:d822]/", "::ffff:5db8:d822", 80, "/"),
        ("http://[2606::5efe:5db8:d822]/", "2606::5efe:5db8:d822", 80, "/"),
        ("http://[64:ff9b::5db8:d822]/", "64:ff9b::5db8:d822", 80, "/"),
    ],
)
def test_a_public_address_is_let_through(url: str, host: str, port: int, path: str) -> None:
    target = guard().check(url)
    assert (target.host, target.port, target.path) == (host, port, path)
    assert target.addresses == (NAMES.get(host, host),)


def test_the_host_header_is_the_callers_without_the_usual_port() -> None:
    for host in ("public.example", "public.example:80", "[2606:4700::1111]:81"):
        assert guard().check(f"https://{host}/").host_header == host
    assert guard().check("https://public.example:443/").host_header == "public.example"


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (OSError("no such name"), "unknown"),
        ([[]], "unknown"),
        ([[PUBLIC, "127.0.0.1"]], "not_public"),
        ([["fe80::1%eth0"]], "not_public"),
        ([["no address"]], "not_public"),
        *([[[to]], "not_public"] for to in INSIDE),
    ],
)
def test_a_name_that_leads_inside_is_told_from_an_unknown_one_in_the_log_alone(
    found: object, reason: str
) -> None:
    strict = UrlGuard(AllowList(), Mock(side_effect=found))
    strict.check_text("http://db.example/")
    with capture_logs() as lines, pytest.raises(UrlUnreachableError) as caught:
        strict.check("http://db.example/")
    assert str(caught.value).startswith("The name service gives no public address for the host:")
    (line,) = lines
    assert (line["event"], line["host"], line["reason"]) == ("url.refused", "db.example", reason)


def test_a_name_server_that_does_not_answer_holds_nobody_up() -> None:
    late = Event()
    slow = UrlGuard(AllowList(), lambda *_: [PUBLIC] * late.wait(60))
    with capture_logs() as lines, pytest.raises(UrlUnreachableError, match="no public address"):
        slow.check("http://public.example/", seconds=0.05)
    assert [line["reason"] for line in lines] == ["late"]
    with pytest.raises(UrlTimeoutError):
        HttpClient(slow).post("http://public.example/", b"", {}, deadline=Deadline(0.05))
    late.set()


@pytest.mark.parametrize(
    ("allow", "opened", "closed"),
    [
        ("HOOKS.intra.", "http://hooks.intra/", "http://10.1.2.3/"),
        (".shop.intra", "http://a.shop.intra/", "http://hooks.intra/"),
        ("*.shop.intra", "http://a.shop.intra/", "http://hooks.intra/"),
        ("10.1.0.0/16", "http://hooks.intra/", "http://10.2.0.1/"),
        ("10.1.0.0/16", "http://app/", "http://redis/"),
        ("app", "http://app/", "http://redis/"),
        ("x.intra, 10.1.2.3", "http://10.1.2.3:8080/", "http://10.1.2.4/"),
        ("intra, ::1", "http://[::1]/", "http://hooks.intra/"),
    ],
)
def test_the_operator_opens_hosts_and_networks_alone(allow: str, opened: str, closed: str) -> None:
    guard(allow).check_text(opened)
    assert guard(allow).check(opened).addresses
    with pytest.raises(OutboundRequestError):
        guard(allow).check(closed)


@pytest.mark.parametrize("entry", ["10.0.0.0/99", "http://hooks.intra", "host:80", "two words"])
def test_a_faulty_list_is_refused_by_name(entry: str) -> None:
    with pytest.raises(ValueError, match="neither a host's name nor a network"):
        AllowList.parse(f"good.intra,{entry}")
