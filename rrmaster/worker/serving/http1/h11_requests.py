"""Which rare forms of a request does h11 read as httptools does?

Both runtimes with h11 use this parser: trio always, uvloop and asyncio where httptools is not installed.  So an
application sees one and the same request, whatever it runs on; `docs/http.md` has the table.
"""

from __future__ import annotations

import re
from typing import Any

import h11

_AUTHORITY = re.compile(rb"(?:[^/@]*@)?(?:\[[0-9A-Fa-f:.]+\]|[^/:@\[\]]+)(?::[0-9]{0,5})?")
"""Whom a target in absolute form names; it must be one, and does not matter, since all hosts are served alike."""


class Connection(h11.Connection):
    """h11's parser, which also takes blank lines before a request, and targets in absolute form."""

    def next_event(self) -> Any:
        if self.their_state is h11.IDLE:
            waiting = self.trailing_data[0]
            if waiting[:1] in (b"\r", b"\n"):  # RFC 9112, 2.2
                self._receive_buffer.maybe_extract_at_most(len(waiting) - len(waiting.lstrip(b"\r\n")))
        event = super().next_event()
        if isinstance(event, h11.Request):
            if event.method == b"CONNECT":
                raise h11.RemoteProtocolError("no tunnels here")  # its client would take any 200 for one
            if not event.method.isupper():  # anycorn would make another method of it
                raise h11.RemoteProtocolError("no such method")
            if event.target[:1] != b"/" or b"#" in event.target:
                return _in_origin_form(event)
        return event


def has_begun(connection: Any) -> bool:
    """Whether a part of a further request has come.  A blank line, which old clients send after a body, is none."""
    return bool(connection.trailing_data[0].strip(b"\r\n"))


def _in_origin_form(request: h11.Request) -> h11.Request:
    """The request with the path and the query of its target alone (RFC 9112, 3.2.2); ``*`` stays.

    Raises h11.RemoteProtocolError for a target in another form.
    """
    target = request.target.partition(b"#")[0]
    if target == b"*":
        return request
    if target[:1] != b"/":
        _, separator, rest = target.partition(b"://")
        before, mark, query = rest.partition(b"?")
        authority, _, path = before.partition(b"/")
        if not separator or not _AUTHORITY.fullmatch(authority):
            raise h11.RemoteProtocolError("a target must be a path, or a URL")
        target = b"/" + path + mark + query
    return h11.Request(method=request.method, target=target, headers=request.headers, http_version=request.http_version)
