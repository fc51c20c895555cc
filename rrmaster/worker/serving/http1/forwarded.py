"""Which peers are trusted proxies?  The same ones, whether a listener takes IPv4 alone or both families.

On a listener of both families (``[::]:8000``, ``:8000``, ``*:8000``) the kernel writes a peer of IPv4 as a mapped
address of IPv6 (RFC 4291, 2.5.5.2): ``::ffff:127.0.0.1``.  uvicorn's middleware takes that for another address, so it
is given both forms of each.  It then knows them in ``X-Forwarded-For`` too, where a second proxy has written them.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_network

MAPPED_BITS = 96
"""Bits of a mapped address before the address of IPv4."""


def trusted(addresses: str) -> list[str]:
    """The addresses and networks of ``--forwarded-allow-ips``, and for each of IPv4 the mapped ones beside it."""
    listed = [address.strip() for address in addresses.split(",")]
    return [*listed, *(mapped for address in listed if (mapped := _mapped(address)))]


def _mapped(address: str) -> str:
    """An address or a network of IPv4 as IPv6 writes it; empty if it is none of IPv4."""
    try:
        network = ip_network(address)
    except ValueError:
        return ""  # `*`, or a name, which uvicorn compares as a text
    if not isinstance(network, IPv4Network):
        return ""
    first = IPv6Address(f"::ffff:{network.network_address}")
    whole = IPv6Network((first, MAPPED_BITS + network.prefixlen))
    return str(whole) if "/" in address else str(first)
