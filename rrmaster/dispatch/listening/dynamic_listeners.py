"""Which addresses have the workers asked for, and which listener is each?

A program that opens its own addresses asks the master for them (`wire.Listen`).  The master opens each address once, at
the first request, and keeps it until it stops: neither a reload nor the death of all workers closes it, and meanwhile
its clients wait in its backlog.  A worker that asks for the same address serves it too.

The same address is the same host and port, the same path, or, for port 0, the request with the same index: all workers
that run the same program get the same free ports, and so do their replacements.  (Node's rules,
lib/internal/cluster/primary.js; but a free port is known by its number as well, and what one worker has left another
may still serve.)

The addresses given with --bind were opened before, with rights that the master may have dropped since: a worker that
asks for exactly one of them serves it.  All others are opened with the rights that the master has at that moment.

To open an address is work, and the address stays: so only programs may ask, and what one worker and all of them may
have opened is bounded.  A worker that asks for too much is told so with an errno.
"""

from __future__ import annotations

import errno
import socket
from logging import DEBUG

from attrs import Factory, define

from ...config.settings import Settings
from ...logs.log import tell
from ...protocol import wire
from ..acceptor import Acceptor
from ..dispatcher import Dispatcher
from ..link import OPENS_PER_S, Link
from ..listeners import BindError, Listener, open_address, open_unix
from ..load import Breach

MOST = 512
"""Addresses opened for programs.  A program that opens a free port again and again would fill the descriptor table,
which holds 1,024 where the machine allows no more."""

Key = tuple[str, int, int]
"""Host, port and index; or path, -1, 0."""


@define(eq=False)
class DynamicListeners:
    """The addresses that programs have asked for."""

    dispatcher: Dispatcher
    backlog: int
    """The backlog of a request that names none."""
    unix_mode: int
    """The file mode of a request that names none."""
    for_programs: bool = True
    """Whether the workers run what may ask: a program, or a worker that is not this package's own."""
    _stopped: bool = False
    _acceptors: dict[Key, Acceptor] = Factory(dict)
    """All that were asked for, also closed ones; a free port stands here twice."""
    _opened: list[Acceptor] = Factory(list)
    """Those that were opened for a program."""

    def configure(self, settings: Settings) -> None:
        """Set the options; they hold for addresses that are opened from now on."""
        self.backlog, self.unix_mode = settings.backlog, settings.unix_mode

    def stop(self) -> None:
        """Open nothing more: the master stops.  The dispatcher closes what is open."""
        self._stopped = True

    def handle(self, link: Link, request: wire.Listen | wire.Attend) -> None:
        """A worker asks for an address, or says whether it serves one.  Raises Breach."""
        if not self.for_programs:
            raise Breach("it asks for a listener, and the application is no program that opens its own")
        if isinstance(request, wire.Attend):
            self._attend(link, request)
        elif len(link.pending_answers) + len(link.listeners or ()) >= wire.MAX_LISTENERS:
            raise Breach(f"it asks for more than {wire.MAX_LISTENERS} listeners")
        else:
            link.answer(self._answer(link, request))

    def _answer(self, link: Link, request: wire.Listen) -> wire.Listening:
        """The answer; without an errno in it the worker serves the address from now on."""
        try:
            acceptor = self._acceptor(link, request)
        except BindError as error:
            facts = {"slot": link.load.slot, "errno": error.errno}
            tell("listener.failed", f"worker {link.load.slot} is told: {error}", level=DEBUG, **facts)
            return wire.Listening(request.seq, error.errno)
        if link.listeners is not None and acceptor.number in link.listeners:
            return wire.Listening(request.seq, errno.EADDRINUSE)  # it has this address, and can have no second one
        if link.listeners is None and not link.load.serving:
            link.set_listeners(frozenset())  # it names what it serves: this address, and what its Ready adds
        self.dispatcher.membership.add_listener(link, acceptor)
        return wire.Listening(request.seq, 0, acceptor.number, _port(acceptor.listener.socket))

    def _attend(self, link: Link, request: wire.Attend) -> None:
        membership = self.dispatcher.membership
        acceptor = membership.acceptor(request.listener)
        if acceptor is None:
            if request.listener >= self.dispatcher.accept_loop.opened:
                raise Breach(f"it speaks of listener {request.listener}, and there is none")
        elif request.here:
            membership.add_listener(link, acceptor)
        else:
            membership.remove_listener(link, acceptor)
            self.dispatcher.recall_listener(link, acceptor.number)

    def _acceptor(self, link: Link, request: wire.Listen) -> Acceptor:
        """The listener of this address, opened now if it is not open yet.  Raises BindError."""
        if self._stopped:
            raise BindError("nothing is opened any longer, the master stops", errno.ESHUTDOWN)
        key = (
            (request.path, -1, 0)
            if request.path
            else (request.host, request.port, 0 if request.port else request.index)
        )
        acceptor = self._acceptors.get(key)
        if acceptor is None or not self._is_open(acceptor):
            acceptor = self._given(key) or self._open_for(link, request)
            self._acceptors[key] = acceptor
            if key[1] == 0:  # a free port, which another worker may ask for by its number
                self._acceptors[key[0], _port(acceptor.listener.socket), 0] = acceptor
        return acceptor

    def _is_open(self, acceptor: Acceptor) -> bool:
        return self.dispatcher.membership.acceptor(acceptor.number) is acceptor

    def _open_for(self, link: Link, request: wire.Listen) -> Acceptor:
        """Open an address.  Raises BindError."""
        if not link.opens.take(1):
            raise BindError(f"it asks for more than {OPENS_PER_S} addresses a second; try again later", errno.EAGAIN)
        if len(self._opened) >= MOST:
            open_now = {acceptor.number for acceptor in self.dispatcher.acceptors}
            self._opened = [acceptor for acceptor in self._opened if acceptor.number in open_now]
        if len(self._opened) >= MOST:
            raise BindError(f"{MOST} addresses are open, and no more are allowed", errno.EMFILE)
        listener = self._open(request)
        try:
            acceptor = self.dispatcher.open(listener)
        except BindError:
            listener.close()
            raise
        self._opened.append(acceptor)
        tell("listener.opened", f"listening on {acceptor.listener.name}", address=acceptor.listener.name)
        return acceptor

    def _given(self, key: Key) -> Acceptor | None:
        """The listener of this address among those that were opened at the start."""
        return next((acceptor for acceptor in self.dispatcher.acceptors if _key(acceptor.listener) == key), None)

    def _open(self, request: wire.Listen) -> Listener:
        """Open an address.  In the loop, and not in a thread: it takes some 50 us.  Raises BindError."""
        backlog = self.backlog if request.backlog is None else request.backlog
        if request.path:
            return open_unix(request.path, backlog, self.unix_mode if request.mode is None else request.mode)
        return open_address(request.host, request.port, backlog)


def _key(listener: Listener) -> Key:
    address = listener.socket.getsockname()
    if listener.file is not None:
        return listener.file.path, -1, 0
    if listener.socket.family == socket.AF_UNIX:
        return address if isinstance(address, str) else "", -1, 0
    return address[0], address[1], 0


def _port(sock: socket.socket) -> int:
    return 0 if sock.family == socket.AF_UNIX else int(sock.getsockname()[1])
