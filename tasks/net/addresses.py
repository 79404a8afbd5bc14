"""Which addresses are on the public internet, however an IPv4 address is wrapped."""

from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

#: Beyond what `ipaddress` of every supported Python calls private or reserved; the IANA
#: special-purpose registries list them.
_SPECIAL: Final = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "100.64.0.0/10",  # shared by carriers' customers (RFC 6598)
        "192.0.0.0/24",
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "198.18.0.0/15",  # benchmarks (RFC 2544)
        "64:ff9b:1::/48",  # NAT64 of a site's own (RFC 8215)
        "100::/64",
        "2001::/23",  # Teredo among them (RFC 4380)
        "2002::/16",  # 6to4 (RFC 3056)
        "3fff::/20",
        "5f00::/16",
        "fec0::/10",
    )
)
_NAT64: Final = ip_network("64:ff9b::/96")  # RFC 6052
_COMPATIBLE: Final = ip_network("::/96")  # RFC 4291, 2.5.5.1
#: The lower half of an ISATAP address before its IPv4 address, local and global (RFC 5214).
_ISATAP: Final = frozenset({0x00005EFE, 0x02005EFE})
_LOW_32: Final = 0xFFFFFFFF


def is_public(address: Address) -> bool:
    """Could anybody on the internet be meant by it?

    Loopback, private, link-local, shared, multicast, documentation and reserved addresses are
    not, nor is an IPv6 address that leads to such an IPv4 address. 6to4 and Teredo, which lead
    through relays that nobody runs any more, are not either.
    """
    if isinstance(address, IPv6Address):
        carried = _carried(address)
        if carried is not None:
            return is_public(carried)
        tunnelled = _tunnelled(address)
        if tunnelled is not None and not is_public(tunnelled):
            return False
    special = any(address in network for network in _SPECIAL)
    odd = address.is_multicast or address.is_reserved or address.is_unspecified
    return address.is_global and not special and not odd


def _carried(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that this one is only another spelling of: its prefix says so."""
    if address.ipv4_mapped is not None or address in _NAT64 or address in _COMPATIBLE:
        return IPv4Address(int(address) & _LOW_32)
    return None


def _tunnelled(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that a tunnel may lead to, besides what the prefix means.

    Anybody's IPv6 address may look like that in its lower half, one on a private network too.
    """
    if (int(address) >> 32) & _LOW_32 in _ISATAP:
        return IPv4Address(int(address) & _LOW_32)
    return None


def parse_address(text: str) -> Address | None:
    """An address in its strict spelling, or None."""
    try:
        return ip_address(text)
    except ValueError:
        return None
