"""How are HTTP, TLS and the PROXY protocol spoken?"""

from __future__ import annotations

from attrs import frozen

from ...protocol.launch import HEADER_MAPS, LIFESPANS, TRUSTED_PROXIES
from ...protocol.proxy_header import MODES
from ..addresses import parse_proxies
from ..names import (
    one_of,
    parse_access_format,
    parse_access_log,
    parse_cert_reqs,
    parse_root_path,
    parse_switch,
    parse_text,
)
from ..option import option
from ..quantities import from_to, parse_duration

_HTTP, _TLS, _PROXY = "HTTP", "TLS", "behind a proxy of connections"

MAX_HEAD = 1024 * 1024
"""Bytes, the largest value of a limit on a request's head.  Servers have 8 to 64 KiB; a larger limit bounds nothing."""


@frozen(slots=False, kw_only=True)
class HttpOptions:
    """What an application is served with.  A program decides all of this itself."""

    root_path: str = option(
        "", parse_root_path, _HTTP, "PATH", "the path under which a proxy serves the application, for ASGI and WSGI"
    )
    proxy_headers: bool = option(
        True,
        parse_switch,
        _HTTP,
        "",
        "take the client's address and scheme from X-Forwarded-For and -Proto, where they come from a trusted proxy",
    )
    forwarded_allow_ips: str = option(
        TRUSTED_PROXIES,
        parse_proxies,
        _HTTP,
        "ADDRESSES",
        "addresses or networks of trusted proxies, separated by commas; *: all",
        shown=f"$FORWARDED_ALLOW_IPS, else {TRUSTED_PROXIES}",
    )
    # nginx's towards clients.  The side that asks must close first, or its next request meets the close: nginx and the
    # load balancers of clouds keep their connections for 60 s.
    keep_alive: float = option(
        75.0, parse_duration, _HTTP, "TIME", "close a connection this long after its last request, if no other has come"
    )
    # h2o's.  A head fits into a packet or two; Apache waits 20 s, nginx and Node 60.
    header_timeout: float = option(
        10.0,
        parse_duration,
        _HTTP,
        "TIME",
        "close a connection, with 408, when the head of its request is not complete in this time: after the accept, or "
        "after the first byte that follows an answer; 0: never",
    )
    # Twice Apache's: there are clients on bad networks, and an upload that stands still for so long is given up.
    body_timeout: float = option(
        30.0,
        parse_duration,
        _HTTP,
        "TIME",
        "close a connection, with 408 if no answer has begun, when less than 1 KiB of a request's body comes in this "
        "time though the application reads; 0: never",
    )
    # nginx's.  A player that has buffered enough reads nothing for a while; when cut, it asks for the rest (Range).
    send_timeout: float = option(
        60.0,
        parse_duration,
        _HTTP,
        "TIME",
        "reset a connection, or a stream of HTTP/2, whose client reads less than 1 KiB in this time of what waits for "
        "it; 0: never",
    )
    # Off, unlike gunicorn's 30 s: a download, or a stream of events, is a request in progress for as long as it lasts.
    request_timeout: float = option(
        0.0,
        parse_duration,
        _HTTP,
        "TIME",
        "cancel a request that has been in progress for longer; one that cannot be cancelled, because it is in a "
        "thread (WSGI, def endpoints), has its worker replaced; 0: never",
    )
    # Threads wait for a database while others work; beyond a few the interpreter's lock makes them wait for each other.
    # waitress has 4, a2wsgi 10.
    threads: int = option(8, from_to(1, 1000), _HTTP, "N", "requests that a worker has in progress at once, for WSGI")
    # gunicorn's default since 22.0: what a proxy says of a user (X-Remote-User) must not be sayable by the user.
    header_map: str = option(
        "drop",
        one_of("header map", HEADER_MAPS),
        _HTTP,
        "drop|refuse|dangerous",
        "header fields with an underscore in their name, which WSGI cannot tell from a hyphen: leave them out, refuse "
        "the request (400), or take X_User for X-User",
    )
    # Off: uvicorn's parser has no such limits, and a proxy in front mostly has its own.
    limit_request_line: int = option(
        0, from_to(0, MAX_HEAD), _HTTP, "BYTES", "refuse a request whose first line is longer (414); 0: no limit"
    )
    limit_request_fields: int = option(
        0, from_to(0, 32_768), _HTTP, "N", "refuse a request with more header fields (431); 0: no limit"
    )
    limit_request_field_size: int = option(
        0,
        from_to(0, MAX_HEAD),
        _HTTP,
        "BYTES",
        "refuse a request with a longer header field (431); 0: no limit; all three together also bound the memory of a "
        "request whose head is incomplete",
        flags=("--limit-request-field_size",),
    )
    lifespan: str = option(
        "auto", one_of("lifespan", LIFESPANS), _HTTP, "auto|on|off", "tell an ASGI application of its start and end"
    )
    # Off: a line costs a write in the worker and a read in the master, and a proxy in front mostly keeps one already.
    access_log: str = option(
        "",
        parse_access_log,
        _HTTP,
        "[FILE]",
        "log each request, or each connection of a stream handler: into the log, into this file (reopened on USR1), or "
        "with - to stdout",
        flags=("--access-logfile",),
        optional_value=True,
        shown="off",
    )
    # auto: in a log for people a line begins with time and worker, so it needs neither; tools that read a file of its
    # own know Apache's `combined`.
    access_log_format: str = option(
        "auto",
        parse_access_format,
        _HTTP,
        "FORMAT",
        "what a line holds, in gunicorn's atoms: '%(h)s \"%(r)s\" %(s)s'; or common, combined, brief; in JSON each "
        "atom is a field; auto: brief in the log, combined elsewhere",
        flags=("--access-logformat",),
    )

    certfile: str | None = option(
        None,
        parse_text,
        _TLS,
        "FILE",
        "speak TLS with this certificate and those between it and the root, in PEM; read again at a reload",
        flags=("--ssl-certfile",),
    )
    keyfile: str | None = option(
        None,
        parse_text,
        _TLS,
        "FILE",
        "the certificate's private key, if the same file has none",
        flags=("--ssl-keyfile",),
    )
    cert_reqs: str = option(
        "none",
        parse_cert_reqs,
        _TLS,
        "WORD",
        "whether clients must show a certificate: none, optional or required",
        flags=("--ssl-cert-reqs",),
    )
    ca_certs: str | None = option(
        None,
        parse_text,
        _TLS,
        "FILE",
        "the authorities that may sign a client's certificate, in PEM",
        flags=("--ssl-ca-certs",),
    )
    ciphers: str | None = option(
        None,
        parse_text,
        _TLS,
        "LIST",
        "the ciphers of TLS 1.2, as OpenSSL writes them; TLS 1.3 has only good ones",
        flags=("--ssl-ciphers",),
        shown="OpenSSL's",
    )

    proxy_protocol: str = option(
        "off",
        one_of("version of the PROXY protocol", tuple(MODES)),
        _PROXY,
        "off|v1|v2|auto",
        "each connection must begin with a header of the PROXY protocol, which names the client",
    )
    proxy_allow_from: str = option(
        TRUSTED_PROXIES,
        parse_proxies,
        _PROXY,
        "ADDRESSES",
        "addresses or networks that may send such a header, separated by commas; *: all; a connection from another "
        "address is closed; a unix socket may always send one",
    )
