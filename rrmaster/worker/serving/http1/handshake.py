"""Which request begins a websocket?"""

from __future__ import annotations


def announces_body(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether the header fields announce a body."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0") != b"")
        for name, value in headers
    )


def is_handshake(method: str, version: str, upgrade: bytes | None, headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether a request that asks for an upgrade begins a websocket (RFC 6455, 4.1); if not, the upgrade is ignored.

    A server may ignore Upgrade, and must in HTTP/1.0 (RFC 9110, 7.8).  A request with a body is never a handshake: the
    websocket's protocol would wait for the body to end, or take it for its first frames.
    """
    return method == "GET" and version == "1.1" and upgrade == b"websocket" and not announces_body(headers)
