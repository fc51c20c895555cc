"""Which clients of the control socket are admitted, and at what pace are they served?

::

    rrmaster reload ── {"do": "reload"} ──────────────────► ControlServer (a task of the master's)
                    ◄─ {"line": "..."} ─ ... ─────────────       RequestHandler asks the Operator (the master)
                    ◄─ {"status": 0, "text": "..."} ──────

One JSON object per line each way.  Every answer ends with the only object that has a ``status``, the exit status of the
verb, and has an ``error`` if the request was not carried out.  ``docs/control.md`` lists all requests.

**No client delays the master or another client.**  The number of clients, the size of their lines and the log that is
kept for them are bounded.  Requests and connections are paced, so a flood gets a few per cent of one processor.  A
client that does not read, or is silent for long, is dropped (`session`).  When all places are taken, the client that
has been silent longest is dropped for a new one.  A client must be root or the master's own user, whatever mode the
socket's file has by now.
"""

from __future__ import annotations

import contextlib
import os
import socket

import trio
from attrs import Factory, define, field

from ..config.presentation import CommandLine
from ..logs.log import logger, subscribe
from ..protocol.family.children import keep_from_children
from .recent_log import RecentLog
from .requests import Operator, RequestHandler
from .session import ClientSession
from .socket_paths import peer_of

MAX_CLIENTS = 32
"""Clients at once: some operators, their dashboards, and room to spare."""

REFUSAL_S = 1.0
"""Seconds in which a client that is refused can send its request before it gets the refusal."""

PACE_S = 0.005
"""Seconds of rest after each request, and after each connection: 200 a second for all clients together.  A status of
eight workers takes a fifth of a millisecond, so a flood costs four per cent of one processor."""

GOODBYE_S = 1.0
"""Seconds for the last lines to clients, when the workers have gone: those that read have them in milliseconds."""

RETRY_S = 1.0
"""Seconds after a failed accept: the process is short of descriptors, and clients of the application come first."""


@define(eq=False)
class ControlServer:
    """Serves one control socket for one master."""

    operator: Operator
    listener: socket.socket
    """Bound and listening.  The caller keeps it, and closes it; after `serve` it refuses connections."""
    uid: int = field(factory=os.geteuid)
    """The user that may connect, beside root."""
    command_line: CommandLine | None = field(default=None, kw_only=True)
    """How the master's process was started; None inside a program."""
    log: RecentLog = Factory(RecentLog)
    sessions: list[ClientSession] = Factory(list)
    """Clients that are admitted."""
    connections: int = 0
    """Connections since the start, refused ones included."""
    _pace: trio.Lock = Factory(trio.Lock)

    async def serve(self) -> None:
        """Serve until cancelled."""
        self.log.attach()
        unsubscribe = subscribe(self.log.record)
        try:
            async with trio.open_nursery() as nursery:
                handler = RequestHandler(self.operator, self.log, nursery, self.command_line)
                listener = trio.socket.from_stdlib_socket(self.listener.dup())
                keep_from_children(listener)
                with listener:
                    await self._accept_all(listener, handler, nursery)
        finally:
            unsubscribe()
            # The master closes the socket last, and until then a client would connect and wait for an answer in vain.
            with contextlib.suppress(OSError):  # it was closed already
                self.listener.shutdown(socket.SHUT_RDWR)

    async def say_goodbye(self) -> None:
        """Tell the clients that follow that the master has stopped; those that do not read are not waited for."""
        self.log.end()
        with trio.move_on_after(GOODBYE_S):
            while any(session.answering for session in self.sessions):
                await trio.sleep(GOODBYE_S / 100)

    async def _accept_all(
        self, listener: trio.socket.SocketType, handler: RequestHandler, nursery: trio.Nursery
    ) -> None:
        while True:
            try:
                sock, _ = await listener.accept()
            except OSError as error:
                logger.error("control socket: cannot accept: %s", error.strerror)
                await trio.sleep(RETRY_S)
                continue
            keep_from_children(sock)
            nursery.start_soon(self._serve_client, ClientSession(trio.SocketStream(sock), trio.current_time()), handler)
            await trio.sleep(PACE_S)

    async def _serve_client(self, session: ClientSession, handler: RequestHandler) -> None:
        self.connections += 1
        try:
            with session.scope:
                refusal = self._refusal(session)
                if refusal:
                    await self._refuse(session, refusal)
                else:
                    await self._serve_admitted(session, handler)
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(session.stream)

    def _refusal(self, session: ClientSession) -> str:
        """Why this client is not admitted; empty if it is.  Another client may be dropped to make room."""
        _, uid = peer_of(session.stream.socket)  # type: ignore[arg-type]  # trio's has the same getsockopt
        if uid not in (0, self.uid):
            logger.warning("control socket: user %d was refused", uid)
            return f"this master obeys user {self.uid} and root; you are user {uid}"
        if len(self.sessions) < MAX_CLIENTS:
            return ""
        silent = [other for other in self.sessions if not other.answering]
        if not silent:
            return f"{MAX_CLIENTS} clients are being answered; try again later"
        longest = min(silent, key=lambda other: other.last_request)
        self.sessions.remove(longest)
        longest.scope.cancel()
        return ""

    async def _refuse(self, session: ClientSession, why: str) -> None:
        """Refuse a client after its request: closing with unread data would reset the connection, refusal and all."""
        with trio.move_on_after(REFUSAL_S):
            await session.request()
        await session.send({"status": 1, "error": why})

    async def _serve_admitted(self, session: ClientSession, handler: RequestHandler) -> None:
        self.sessions.append(session)
        try:
            await self._answer_all(session, handler)
        finally:
            with contextlib.suppress(ValueError):  # removed already, to make room for another client
                self.sessions.remove(session)

    async def _answer_all(self, session: ClientSession, handler: RequestHandler) -> None:
        while (line := await session.request()) is not None:
            # The lock is shared: all clients together are paced, not each of them.
            async with self._pace:
                await trio.sleep(PACE_S)
            session.begin_answer()
            await session.send(await handler.answer(session, line))
            session.end_answer()
