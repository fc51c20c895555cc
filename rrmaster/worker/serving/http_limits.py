"""How large may the head of a request be?

The options are gunicorn's, and off by default.  A head that is whole is judged here, the same for every server, before
the application sees it.  What an unfinished one may hold in memory is the server's to bound: `HttpLimits.head` is for that.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen

from ...protocol.launch import Launch
from .asgi import ASGI, Message, Receive, Send

AROUND_FIELD = 32
"""Bytes of a field beside its name and its value, as HTTP/2 counts them; in HTTP/1.1 they are four."""

AROUND_TARGET = 10
"""Bytes of the first line beside the method and the target: two spaces and ``HTTP/1.1``."""


@frozen
class HttpLimits:
    """Bytes and numbers; 0: no limit."""

    line: int
    fields: int
    field_size: int

    @classmethod
    def of(cls, launch: Launch) -> HttpLimits:
        """What the options say."""
        return cls(launch.limit_request_line, launch.limit_request_fields, launch.limit_request_field_size)

    @property
    def head(self) -> int:
        """Bytes that a head within these limits has at most; 0: they do not say."""
        if not (self.line and self.fields and self.field_size):
            return 0
        return self.line + self.fields * (self.field_size + AROUND_FIELD)

    def complaint(self, scope: Message) -> tuple[int, str] | None:
        """The status and the words with which a request is refused, if it is."""
        fields = scope["headers"]
        if self.fields and len(fields) > self.fields:
            return 431, f"more than {self.fields} header fields"
        if self.field_size and any(len(name) + len(value) > self.field_size for name, value in fields):
            return 431, f"a header field of more than {self.field_size} bytes"
        if self.line and _line(scope) > self.line:
            return 414, f"a request line of more than {self.line} bytes"
        return None

    def around(self, app: ASGI) -> ASGI:
        """The application, which sees only requests within the limits."""
        if not (self.line or self.fields or self.field_size):
            return app

        async def limited(scope: Message, receive: Receive, send: Send) -> None:
            refused = self.complaint(scope) if scope["type"] != "lifespan" else None
            if refused is None:
                await app(scope, receive, send)
            else:
                await _refuse(scope, send, *refused)

        return limited


def _line(scope: Message) -> int:
    """Bytes of the request's first line, as a client of HTTP/1.1 writes it."""
    target = len(scope.get("raw_path") or scope["path"].encode()) - len(scope.get("root_path", ""))
    query = len(scope["query_string"])
    return len(scope.get("method", "GET")) + target + (query + 1 if query else 0) + AROUND_TARGET


async def _refuse(scope: Message, send: Send, status: int, words: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})  # the server makes 403 of it
        return
    body = f"{words}\n".encode()
    headers: list[Any] = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    if scope["http_version"] < "2":
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
