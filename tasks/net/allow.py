"""The operator's list of hosts and networks that may be called although they are not public."""

from dataclasses import dataclass
from ipaddress import ip_network

from tasks.net.addresses import Address, Network


@dataclass(frozen=True, slots=True)
class Allow:
    """What the operator opened.

    Attributes:
        hosts: names in lower case; one that begins with a dot stands for all names below it.
        networks: in which an address may lie.
    """

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Allow":
        """From `hooks.intra,.shop.intra,10.0.0.0/8,127.0.0.1`.

        Raises:
            ValueError: an entry with a slash is no network.
        """
        hosts, networks = set[str](), list[Network]()
        for entry in filter(None, (part.strip().lower() for part in text.split(","))):
            network = _network(entry)
            if network is None:
                hosts.add(entry.removeprefix("*").rstrip("."))
            else:
                networks.append(network)
        return cls(frozenset(hosts), tuple(networks))

    def host(self, name: str) -> bool:
        """Is a host allowed by its name, wherever that leads?"""
        parts = name.lower().rstrip(".").split(".")
        above = {f".{'.'.join(parts[index:])}" for index in range(1, len(parts))}
        return ".".join(parts) in self.hosts or bool(above & self.hosts)

    def address(self, address: Address) -> bool:
        """Does an address lie in an allowed network?"""
        return any(address in network for network in self.networks)


def _network(entry: str) -> Network | None:
    try:
        return ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        if any(sign in entry for sign in "/:[] "):
            raise ValueError(
                f"{entry!r} is neither a host's name nor a network such as 10.0.0.0/8"
            ) from None
        return None
