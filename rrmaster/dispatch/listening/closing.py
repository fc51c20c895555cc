"""How is a listener closed without harm to clients that have already connected?

Clients in the backlog are accepted and handed over.  Before that, those that TCP_DEFER_ACCEPT holds back are let into
the backlog (see `deferral`), and those in the middle of their handshake have a moment to complete it.  The kernel says
which they are, so it takes no time where there are none, and clients that come later are not waited for.  Meanwhile
the listener accepts as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import trio
from attrs import define

from ..acceptor import AcceptLoop, Acceptor
from ..link import Link
from ..listeners import Listener
from ..membership import HANDOFF_RETRY, Delivery
from .deferral import ROUND_TRIP
from .half_open import half_open

LOOK = 0.02
"""Seconds between two looks at the clients that were held back; one takes the kernel half a millisecond."""

LET_IN = 0.5
"""The part of a drain's time that those clients may take; the rest is for the backlog."""


@define(eq=False)
class Closing:
    """Closes listeners for the dispatcher."""

    accept_loop: AcceptLoop
    delivery: Delivery
    links: dict[int, Link]
    """The living workers, by id; the dispatcher's."""
    wake: Callable[[], None]
    """Wakes the dispatcher's loop."""

    async def drain_all(self, timeout: float) -> None:
        """Accept what the backlogs hold and what is held back, hand it over, and close each listener; see
        `Dispatcher.drain_listeners`."""
        with trio.move_on_after(timeout):
            served = [acceptor.listener for acceptor in self.accept_loop.acceptors if acceptor.policy.members]
            await let_in(served, timeout * LET_IN)
            self.accept_loop.drain_all()
            self.wake()
            if self.accept_loop.acceptors:
                await self.accept_loop.closed.wait()
            while self.delivery.undelivered and any(link.load.serving for link in self.links.values()):
                await trio.sleep(HANDOFF_RETRY)

    async def drain(self, acceptor: Acceptor) -> None:
        """Accept what waits at this listener and what is held back, then close it."""
        await let_in([acceptor.listener], float("inf"))
        if acceptor in self.accept_loop.acceptors:  # the master's stop may have closed it meanwhile
            self.accept_loop.drain(acceptor)
            self.wake()


async def let_in(listeners: Collection[Listener], patience: float) -> None:
    """Hold no client back any longer, and return when each that is half open now can be accepted.

    Takes no time where there are none, `patience` seconds at most, and never longer than a client that answers the
    kernel's next SYN-ACK does.  Where the kernel does not say who is there, it takes all that time if clients were held
    back, and none otherwise.
    """
    begun = trio.current_time()
    held: dict[Listener, set[bytes] | None] = {}
    until: dict[Listener, float] = {}
    for listener in listeners:
        longest = listener.deferral.end()
        clients = half_open(listener.socket)
        if clients or (clients is None and longest):
            held[listener] = clients
            until[listener] = begun + min(longest or ROUND_TRIP, patience)
    while held:
        await trio.sleep(LOOK)
        now = trio.current_time()
        waited_for = {
            listener: _still_half_open(clients, listener)
            for listener, clients in held.items()
            if now < until[listener] and listener.socket.fileno() >= 0  # a hurried stop may have closed it meanwhile
        }
        held = {listener: clients for listener, clients in waited_for.items() if clients is None or clients}


def _still_half_open(clients: set[bytes] | None, listener: Listener) -> set[bytes] | None:
    if clients is None:
        return None
    now = half_open(listener.socket)
    return clients if now is None else clients & now
