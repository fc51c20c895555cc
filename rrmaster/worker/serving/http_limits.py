"""How large may the head of a request be?

The options are gunicorn's, and off by default.  A complete head is checked here, the same for every server, before the
application sees it.  The memory of an incomplete one is bounded by the server, with `HttpLimits.head`.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen

from ...protocol.launch import Launch
from .asgi import ASGI, Message, Receive, Send

AROUND_FIELD = 32
"""Bytes of a field beside its name and its value, as HTTP/2 counts them: the most of both, for the bound of a head."""

AROUND_HTTP_1_FIELD = 4
"""Bytes of a field beside its name and its value in HTTP/1.1: a colon, a space and the line's end.  gunicorn counts the
whole line with its end, so its option's value refuses the same fields here."""

AROUND_TARGET = 10
"""Bytes of the first line beside the method and the target: two spaces and ``HTTP/1.1``."""


@frozen
class HttpLimits:
    """The limits of a request's head; 0: no limit."""

    line: int
    """Bytes of the first line."""
    fields: int
    """Number of header fields."""
    field_size: int
    """Bytes of one field, as a line of HTTP/1.1 with its end."""

    @classmethod
    def of(cls, launch: Launch) -> HttpLimits:
        """The limits that the options set."""
        return cls(launch.limit_request_line, launch.limit_request_fields, launch.limit_request_field_size)

    @property
    def head(self) -> int:
        """Bytes that a head within these limits has at most; 0 if they do not bound it."""
        if not (self.line and self.fields and self.field_size):
            return 0
        return self.line + self.fields * (self.field_size + AROUND_FIELD)

    def complaint(self, scope: Message) -> tuple[int, str] | None:
        """The status and the text with which a request is refused; None if it is within the limits."""
        fields = scope["headers"]
        if self.fields and len(fields) > self.fields:
            return 431, f"more than {self.fields} header fields"
        most = self.field_size - AROUND_HTTP_1_FIELD
        if self.field_size and any(len(name) + len(value) > most for name, value in fields):
            return 431, f"a header field of more than {self.field_size} bytes"
        if self.line and _line(scope) > self.line:
            return 414, f"a request line of more than {self.line} bytes"
        return None

    def around(self, app: ASGI) -> ASGI:
        """An application that passes on only requests within the limits."""
        if not (self.line or self.fields or self.field_size):
            return app

        async def limited(scope: Message, receive: Receive, send: Send) -> None:
            refused = self.complaint(scope) if scope["type"] != "lifespan" else None
            if refused is None:
                await app(scope, receive, send)
            else:
                await refuse(scope, send, *refused)

        return limited


def _line(scope: Message) -> int:
    """Bytes of the request's first line, as a client of HTTP/1.1 writes it."""
    target = len(scope.get("raw_path") or scope["path"].encode()) - len(scope.get("root_path", ""))
    query = len(scope["query_string"])
    return len(scope.get("method", "GET")) + target + (query + 1 if query else 0) + AROUND_TARGET


async def refuse(scope: Message, send: Send, status: int, reason: str) -> None:
    """Answer a request that no application sees; over HTTP/1.1 it is the connection's last."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})  # before its accept: the server answers 403
        return
    body = f"{reason}\n".encode()
    headers: list[Any] = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    if scope["http_version"] < "2":
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
