"""Which client is behind a proxy?  The header of the PROXY protocol, versions 1 and 2.

A proxy sends it before the first byte of the client (haproxy.org, doc/proxy-protocol.txt)::

    version 1    PROXY TCP4 192.0.2.7 198.51.100.1 56324 443<CR><LF>
    version 2    12 bytes of signature | version, command | family | length | addresses | TLVs

Bytes after the header must not be consumed, because they may be the beginning of a TLS handshake.  So `size` says how
many bytes the header has: look at what waits (MSG_PEEK), take the header's part, look again.

rrmaster does not use the package `proxy-protocol` (0.11.3 of April 2024, 2,500 lines): its reader needs a stream that
no other code reads, it accepts a port of ``+8_0`` as 80 and a family that does not exist as an unknown one, and it
raises struct.error for a length that does not fit.

This module knows bytes and addresses, and no sockets.  A header is a claim of the sender: `TrustedSenders` says which
senders may make it.
"""

from __future__ import annotations

import ipaddress
import re
import struct

from attrs import frozen

MODES = {"off": (), "v1": (1,), "v2": (2,), "auto": (1, 2)}
"""The versions that each value of --proxy-protocol accepts; the values are gunicorn's."""

LONGEST_LINE = 107
"""Bytes of a header of version 1, with its line end: the longest that the specification allows."""

LONGEST = 8192
"""Bytes of the longest header that is read: a client's certificate in a TLV fits, a flood does not."""

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_LINE = b"PROXY "
_FIXED = 16
"""Bytes of version 2 before the addresses."""

_PORT = re.compile(r"0|[1-9][0-9]{0,4}")
_HOST = {"TCP4": ipaddress.IPv4Address, "TCP6": ipaddress.IPv6Address}
_ADDRESSES = {
    0x00: None,
    0x11: struct.Struct("!4s4sHH"),
    0x12: struct.Struct("!4s4sHH"),  # a client of QUIC, forwarded over TCP
    0x21: struct.Struct("!16s16sHH"),
    0x22: struct.Struct("!16s16sHH"),
    0x31: struct.Struct("!108s108s"),
    0x32: struct.Struct("!108s108s"),
}
"""The layout of the addresses, by family and protocol; the specification has no others."""

Address = tuple[str, int]


class MalformedHeader(Exception):
    """The bytes are no valid header.  The message says why."""


@frozen
class Header:
    """What a header says."""

    source: Address | None = None
    """The client's address.  None: the header gives none (LOCAL or UNKNOWN, a health check by the proxy itself; or a
    unix socket), and the socket's own addresses are the real ones."""
    destination: Address | None = None
    """The address that the client connected to."""


@frozen
class TrustedSenders:
    """The senders whose headers are believed."""

    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    everyone: bool = False
    """Every address is trusted."""

    @classmethod
    def named(cls, text: str) -> TrustedSenders:
        """Parse addresses and networks, separated by commas; ``*``: everyone.  Raises ValueError."""
        words = [word.strip() for word in text.split(",") if word.strip()]
        networks = tuple(ipaddress.ip_network(word) for word in words if word != "*")
        return cls(networks, "*" in words)

    def include(self, host: str | None) -> bool:
        """Whether this sender is trusted.  None is a unix socket, which its file's permissions protect."""
        if self.everyone or host is None:
            return True
        address = ipaddress.ip_address(host.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped  # a listener on [::] sees an IPv4 client as such an address
        return any(address in network for network in self.networks)


def size(seen: bytes, versions: tuple[int, ...] = (1, 2)) -> int | None:
    """The number of bytes of the header that begins with `seen`; None: more is needed, and all of `seen` belongs to it.

    Raises MalformedHeader with the first byte that no header has.
    """
    if 2 in versions and seen.startswith(_SIGNATURE[: len(seen)]):
        return _size_of_binary(seen)
    if 1 in versions and seen.startswith(_LINE[: len(seen)]):
        return _size_of_line(seen)
    raise MalformedHeader("no PROXY header" if len(versions) == 2 else f"no PROXY header of version {versions[0]}")


def _size_of_line(seen: bytes) -> int | None:
    end = seen.find(b"\n", 0, LONGEST_LINE)
    if end >= 0:
        return end + 1
    if len(seen) >= LONGEST_LINE:
        raise MalformedHeader(f"a PROXY line without an end in {LONGEST_LINE} bytes")
    return None


def _size_of_binary(seen: bytes) -> int | None:
    if len(seen) < _FIXED:
        return None
    length = _FIXED + int.from_bytes(seen[14:16], "big")
    if length > LONGEST:
        raise MalformedHeader(f"a PROXY header of {length} bytes, and {LONGEST} are the most")
    return length


def parse(header: bytes) -> Header:
    """Parse a complete header, of the length that `size` returned.  Raises MalformedHeader."""
    return _parse_binary(header) if header.startswith(_SIGNATURE) else _parse_line(header)


def _parse_line(header: bytes) -> Header:
    try:
        line = header.decode("ascii")
    except UnicodeDecodeError:
        raise MalformedHeader("a PROXY line that is not ASCII") from None
    if not line.startswith("PROXY ") or not line.endswith("\r\n"):
        raise MalformedHeader("a PROXY line that does not end with CR LF")
    words = line[:-2].split(" ")[1:]
    if words[0] == "UNKNOWN":
        return Header()  # the specification: ignore the rest of the line
    if words[0] not in _HOST or len(words) != 5:
        raise MalformedHeader("a PROXY line that is not `TCP4|TCP6 source destination port port`")
    family, source, destination, source_port, destination_port = words
    return Header(_address(family, source, source_port), _address(family, destination, destination_port))


def _address(family: str, host: str, port: str) -> Address:
    try:
        address = _HOST[family](host)
    except ValueError:
        raise MalformedHeader(f"a PROXY line with an address that is not of {family}") from None
    if "%" in host or _PORT.fullmatch(port) is None or int(port) > 65535:
        raise MalformedHeader("a PROXY line with an invalid address or port")
    return str(address), int(port)


def _parse_binary(header: bytes) -> Header:
    version, command, family = header[12] >> 4, header[12] & 15, header[13]
    if version != 2 or command > 1:
        raise MalformedHeader(f"a PROXY header of version {version} with command {command}")
    if command == 0:
        return Header()  # LOCAL: the proxy's own connection, a health check
    if family not in _ADDRESSES:
        raise MalformedHeader(f"a PROXY header of a family that does not exist: {family:#04x}")
    form = _ADDRESSES[family]
    if form is None:
        return Header()
    if len(header) < _FIXED + form.size:
        raise MalformedHeader("a PROXY header that is too short for its addresses")
    if family >> 4 == 3:
        return Header()  # a unix socket on the proxy's machine: no address
    source, destination, source_port, destination_port = form.unpack_from(header, _FIXED)
    return Header((_host(source), source_port), (_host(destination), destination_port))


def _host(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed))
