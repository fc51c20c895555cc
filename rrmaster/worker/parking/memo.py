"""What does the worker that serves the next request of a connection have to know from those that served it before?

::

    version, flags, requests, accepted │ source, destination of the PROXY header, if it had one
    B        B      I         d        │ 16s H   16s H

The socket itself knows the rest.  A memo comes from another worker through the idle pool and the master; neither reads
it.  One that cannot be read is taken for an empty one.
"""

from __future__ import annotations

import ipaddress
import struct

from attrs import frozen

from ...protocol.proxy_header import Address, Header

_HEAD = struct.Struct("<BBId")
_ADDRESS = struct.Struct("!16sH")

VERSION = 1
_HEADER, _SOURCE, _V6 = 1, 2, 4
"""Flags: it had a PROXY header; which gave addresses; of IPv6."""


@frozen
class Memo:
    """What is known of a connection."""

    accepted: float
    """When it was first taken, on CLOCK_MONOTONIC."""
    requests: int = 0
    """Requests served on it so far."""
    header: Header | None = None
    """Its PROXY header."""

    def encode(self) -> bytes:
        """As bytes, of `protocol.parking.lane.MAX_MEMO` at most."""
        header, flags, addresses = self.header, 0, b""
        if header is not None:
            flags = _HEADER
            if header.source is not None and header.destination is not None:
                flags |= _SOURCE | (_V6 if ":" in header.source[0] else 0)
                addresses = _packed(header.source) + _packed(header.destination)
        return _HEAD.pack(VERSION, flags, min(self.requests, 2**32 - 1), self.accepted) + addresses

    @classmethod
    def decode(cls, memo: bytes, now: float) -> Memo:
        """The memo that `encode` has encoded; an empty one if it cannot be read."""
        try:
            version, flags, requests, accepted = _HEAD.unpack_from(memo)
            if version != VERSION:
                return cls(now)
            header = None
            if flags & _HEADER:
                header = Header()
                if flags & _SOURCE:
                    v6, at = bool(flags & _V6), _HEAD.size
                    header = Header(_unpacked(memo, at, v6), _unpacked(memo, at + _ADDRESS.size, v6))
            return cls(accepted, requests, header)
        except (struct.error, ValueError):
            return cls(now)


def _packed(address: Address) -> bytes:
    return _ADDRESS.pack(ipaddress.ip_address(address[0]).packed, address[1])


def _unpacked(memo: bytes, at: int, v6: bool) -> Address:
    host, port = _ADDRESS.unpack_from(memo, at)
    return str(ipaddress.ip_address(host if v6 else host[:4])), port
