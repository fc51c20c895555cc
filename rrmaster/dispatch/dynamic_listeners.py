"""Which addresses have the workers asked for, and which listener is each?

A program that opens its own addresses asks the master for them (`wire.Listen`).  The master opens each one once,
whoever asks first, and keeps it until it stops: neither a reload nor the death of all workers closes it, and meanwhile
its clients wait in its backlog.  Whoever asks for the same serves it too.

The same is the same host and port, the same path, or, for port 0, the same how-manieth request: so every worker that
runs the same program gets the same free ports, its replacement too.  (Node's rules, lib/internal/cluster/primary.js;
but a free port is known by its number as well, and what one worker left another may still serve.)

The addresses given with --bind were opened before, with rights that may be gone by now: who asks for exactly one of
them serves it.  All others are opened with the rights that the master has at that moment.
"""

from __future__ import annotations

import errno
import socket
from logging import DEBUG

from attrs import Factory, define

from ..config.settings import Settings
from ..logs.log import tell
from ..protocol import wire
from .acceptor import Door
from .dispatcher import Dispatcher
from .listeners import BindError, Listener, open_literally, open_unix
from .load import Breach
from .recall import Link

MOST = 1024
"""Addresses kept for programs.  One that opens a free port again and again would fill the descriptor table."""

Key = tuple[str, int, int]
"""Host, port and index; or path, -1, 0."""


@define(eq=False)
class Openings:
    """The addresses of the programs."""

    dispatcher: Dispatcher
    backlog: int = 2048
    unix_mode: int = 0o666
    over: bool = False
    """The master stops: nothing is opened any more."""
    _doors: dict[Key, Door] = Factory(dict)

    def configure(self, settings: Settings) -> None:
        """Open addresses as these settings say, where the program does not say otherwise."""
        self.backlog, self.unix_mode = settings.backlog, settings.unix_mode

    def stop(self) -> None:
        """Open no more addresses: the master stops."""
        self.over = True

    def asked(self, link: Link, wish: wire.Listen | wire.Attend) -> None:
        """A worker asks for an address, or says whether it attends to one.  Raises Breach."""
        if isinstance(wish, wire.Attend):
            self._attend(link, wish)
        elif len(link.unsaid) + len(link.listeners or ()) >= wire.MAX_LISTENERS:
            raise Breach(f"it asks for more than {wire.MAX_LISTENERS} listeners")
        else:
            link.answer(self._answer(link, wish))

    def _answer(self, link: Link, wish: wire.Listen) -> wire.Listening:
        """It serves the address from now on if there is no errno in the answer."""
        try:
            door = self._door(wish)
        except BindError as error:
            facts = {"slot": link.post.slot, "errno": error.errno}
            tell("listener.failed", f"worker {link.post.slot} is told: {error}", level=DEBUG, **facts)
            return wire.Listening(wish.seq, error.errno)
        if link.listeners is not None and door.number in link.listeners:
            return wire.Listening(wish.seq, errno.EADDRINUSE)  # it has it, and another one there cannot be
        if link.listeners is None and not link.post.serving:
            link.listeners = frozenset()  # it names what it serves: this, and what its Ready adds
        self.dispatcher.membership.enter(link, door)
        return wire.Listening(wish.seq, 0, door.number, _port(door.listener.socket))

    def _attend(self, link: Link, wish: wire.Attend) -> None:
        door = self.dispatcher.membership.door(wish.listener)
        if door is None:
            if wish.listener >= self.dispatcher.numbers:
                raise Breach(f"it speaks of listener {wish.listener}, and there is none")
        elif wish.here:
            self.dispatcher.membership.enter(link, door)
        else:
            self.dispatcher.membership.quit(link, door)
            self.dispatcher.relieve(link, door.number)

    def _door(self, wish: wire.Listen) -> Door:
        """The listener of this address, opened if need be.  Raises BindError."""
        if self.over:
            raise BindError("nothing is opened any more, the master stops", errno.ESHUTDOWN)
        key = (wish.path, -1, 0) if wish.path else (wish.host, wish.port, 0 if wish.port else wish.index)
        self._doors = {known: door for known, door in self._doors.items() if door in self.dispatcher.doors}
        door = self._doors.get(key) or self._given(key)
        if door is None:
            if len(self._doors) >= MOST:
                raise BindError(f"{MOST} addresses are open, and there are to be no more", errno.EMFILE)
            door = self.dispatcher.open(self._open(wish))
            tell("listener.opened", f"listening on {door.listener.name}", address=door.listener.name)
        self._doors[key] = door
        if key[1] == 0:
            self._doors[key[0], _port(door.listener.socket), 0] = door
        return door

    def _given(self, key: Key) -> Door | None:
        """One of those that were opened at the start."""
        return next((door for door in self.dispatcher.doors if _key(door.listener) == key), None)

    def _open(self, wish: wire.Listen) -> Listener:
        """In the loop: an address is opened in some 50 us.  Raises BindError."""
        backlog = self.backlog if wish.backlog is None else wish.backlog
        if wish.path:
            return open_unix(wish.path, backlog, self.unix_mode if wish.mode is None else wish.mode)
        return open_literally(wish.host, wish.port, backlog)


def _key(listener: Listener) -> Key:
    address = listener.socket.getsockname()
    if listener.place is not None:
        return listener.place.path, -1, 0
    if listener.socket.family == socket.AF_UNIX:
        return address if isinstance(address, str) else "", -1, 0
    return address[0], address[1], 0


def _port(sock: socket.socket) -> int:
    return 0 if sock.family == socket.AF_UNIX else int(sock.getsockname()[1])
