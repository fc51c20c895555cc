"""How is load counted: that of a worker, and its share of one listener's connections?

Load is the difference of two counters, each kept by the side that knows.  The master counts ``handed``; the worker
reports ``closed`` as a total since its start.  A late report only makes a worker look busier than it is.  What was
handed over and not yet taken (*unclaimed*) is counted by the kernel: a worker cannot fake that number, and does not
have to report it.

A worker has one `WorkerLoad`, its counters, and one `PolicyMember` in the `Policy` of each listener that it serves:
load and room belong to the worker; turn and a newcomer's share belong to the listener.

This module knows numbers.  It does not know sockets, clocks or processes: the count of the letterbox is a callable.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any, ClassVar

from attrs import Factory, define, field

from ..protocol import wire

Peer = Any
"""An address as accept() returns it: (host, port, ...) for TCP; "" or bytes for a unix socket."""

NEWCOMER_S = 2.0
"""Seconds for which a worker new to a serving fleet gets no more than its fair share of the new connections.
Least-loaded alone would give it all of them: cold caches, and, if its code is bad, the largest possible damage."""

COLD_START_S = 1.0
"""Seconds for which the first workers of a fleet leave the next one its share of the clients that wait.  Workers of one
template serve within milliseconds of each other, and those of small imports too; for one that takes many seconds no
client should wait."""

AT_ONCE = 4
"""What each worker may have in hand in any case, so that a few users wait for no worker but the first.  A difference of
4 connections is soon even."""

SUSPECT_PENALTY = 2
"""Connections that a suspect (`stall_detector`) is charged with besides its own, so that it is chosen after all live
workers with about as many.  In simulations of blocked workers 1, 2, 3, 4, 8 and no bound did equally well.  A bound is
necessary: in a burst on a busy machine there is always a worker that waits for a processor, and long-lived connections
must be spread evenly all the same (200 on 4 workers: without a bound the fullest had up to 2.8 times its share)."""

FULL_PENALTY = 1 << 40
"""Connections that a full worker is charged with, more than there can be: it comes after all others, and among full
ones the connections in hand decide, as ever.  They are not refused, nor kept waiting in the backlog.  A worker whose
threads hang still answers what needs none, its health check, say; and if all threads of all workers are slow, a
connection waits where its request is known to `--header-timeout` and to the application's own limits."""

SHORT_WINDOW = 2
"""The window while many workers are suspect.  The workers that still respond are given everything and block next, with
as much in their letterboxes.  Two and not one, so that a worker has the next connection at hand when it has finished
one (simulated, 8 workers at 60 %: p99 of the workers that do not block is 94 ms with 8, 57 with 2, 66 with 1; with an
ideal queue 52)."""

_CYCLE = 1 << 16
"""A worker reports how many asides it has read in 16 bits, which wrap around."""


class Breach(Exception):
    """A worker said or did what no correct worker can.  The master stops trusting it: it is killed and replaced."""


def cold_until(first: float, now: float) -> float:
    """The end of a cold start, if a worker serves from now on, and the first one from `first` on.

    The clients of a server that was away wait in the backlog, or come back, while its workers start.  The worker that
    is ready first could have them all within milliseconds, and would keep those that stay (websockets, kept
    connections): 120 clients on 4 workers came to [8, 112].  So it gets its `fair_share` of those that are here.
    What the others lose: they wait for another worker, for `COLD_START_S`, or twice that if another comes meanwhile.
    """
    return min(now + COLD_START_S, first + 2 * COLD_START_S)


def fair_share(in_hand: int, waiting: int, size: int) -> int:
    """What one worker of `size` may have in hand: of all that workers have, and of what waits in the backlogs."""
    return max(ceil((in_hand + waiting) / size), AT_ONCE)


@define(eq=False)
class WorkerLoad:
    """The load of one worker, as the dispatcher knows it."""

    id: int
    slot: int
    count: Callable[[], int | None]
    """Asks the kernel how many messages lie in the worker's letterbox; None if it does not tell just now."""
    window: int
    """How many connections may lie unclaimed at present; less than `full_window` while letterboxes are kept short."""
    limit: int
    """How much the worker may have in hand at present; less than `full_limit` in a cold start."""
    handed: int = 0
    closed: int = 0
    busy: int = 0
    """Requests in progress, as last reported."""
    tells_requests: bool = False
    """Whether the worker has told of a request, in progress or finished."""
    orphaned: int = 0
    """How many of them have no connection, as last reported: they take as much of the worker as those that have."""
    parked: int = 0
    """Connections of `closed` that it has parked."""
    unclaimed: int = 0
    """An upper bound: the kernel's last count, and what was handed over since."""
    counted: bool = True
    """The kernel has told when it was asked last."""
    asides_sent: int = 0
    """Messages to the worker that are no clients: nudges, probes, answers."""
    asides_read: int = 0
    """How many of them the worker says it has read.  The others lie in its letterbox."""
    serving: bool = False
    suspended: bool = False
    """Nothing is handed to the worker until its next report."""
    late_in_a_row: int = 0
    """How often in a row the worker was found late."""
    reports: int = 0
    """Reports that have come from the worker."""
    full: bool = False
    """Whether a further request would wait for a thread, as last reported."""
    suspected: bool = False
    """The worker was given something and has not reported since."""
    penalty: int = 0
    """What the worker is charged with besides what it has in hand: `SUSPECT_PENALTY`, `FULL_PENALTY`, or both."""
    full_window: int = field(default=Factory(lambda self: self.window, takes_self=True))
    full_limit: int = field(default=Factory(lambda self: self.limit, takes_self=True))

    @property
    def connections(self) -> int:
        """Connections the worker has, taken or not."""
        return self.handed - self.closed

    @property
    def in_hand(self) -> int:
        """What the worker has to do: its connections, and the requests in progress that have none."""
        return self.handed - self.closed + self.orphaned

    @property
    def cost(self) -> int:
        """What workers are compared by: what they have in hand, and more while they are suspect or full."""
        return self.handed - self.closed + self.orphaned + self.penalty

    @property
    def taken(self) -> int:
        """Connections the worker had taken when its letterbox was last counted."""
        return self.handed - self.unclaimed

    @property
    def asides_unread(self) -> int:
        """Asides in the letterbox."""
        return (self.asides_sent - self.asides_read) % _CYCLE

    def has_room(self) -> bool:
        """Whether one more may be handed over.  The kernel is asked only when the last count says full."""
        if not self.serving or self.suspended or self.handed - self.closed + self.orphaned >= self.limit:
            return False
        return self.unclaimed < self.window or self.recount() < self.window

    def is_merely_full(self) -> bool:
        """Whether the window alone stands in the way of one more connection."""
        return self.serving and not self.suspended and self.in_hand < self.limit

    def recount(self) -> int:
        """Ask the kernel how many connections are unclaimed.  If it does not tell, the old number is an upper bound."""
        count = self.count()
        self.counted = count is not None
        if count is not None:
            self.unclaimed = max(count - self.asides_unread, 0)
        return self.unclaimed

    # --- what changes it

    def start_serving(self) -> None:
        """The worker may be given connections."""
        self.serving = True

    def stop_serving(self) -> None:
        """The worker is given no further connections."""
        self.serving = False

    def count_handoff(self) -> None:
        """One more was handed over.  `Policy.count_handoff` has the same two lines, written out."""
        self.handed += 1
        self.unclaimed += 1

    def count_recall(self) -> None:
        """One was taken back from the letterbox."""
        self.handed -= 1
        self.recount()

    def count_asides(self, number: int) -> None:
        """`number` more asides were sent; a negative number was taken back unread."""
        self.asides_sent += number

    def suspend(self) -> None:
        """Hand nothing over until the next report."""
        self.suspended = True

    def found_late(self) -> None:
        """The worker has taken nothing for a while."""
        self.late_in_a_row += 1

    def found_moving(self) -> None:
        """The worker has taken something since the last look."""
        self.late_in_a_row = 0

    def suspect(self) -> None:
        """The worker was given something and has not reported since."""
        self.suspected = True
        self._set_penalty()

    def _set_penalty(self) -> None:
        self.penalty = SUSPECT_PENALTY * self.suspected + FULL_PENALTY * self.full

    def set_short(self, short: bool) -> None:
        """Let no more than `SHORT_WINDOW` connections lie unclaimed, or again as many as configured."""
        self.window = min(SHORT_WINDOW, self.full_window) if short else self.full_window

    def bound(self, places: int) -> None:
        """Never let the worker have more in hand than this."""
        self.full_limit = min(self.full_limit, places)
        self.limit = min(self.limit, places)

    def set_share(self, share: int | None) -> bool:
        """Let the worker have no more than `share` in hand, or again as much as configured.  Whether that is more."""
        before, self.limit = self.limit, self.full_limit if share is None else min(share, self.full_limit)
        return self.limit > before

    def apply(self, report: wire.Report) -> None:
        """Take over the counts of a report.  Raises Breach for counts that cannot be."""
        unread = (self.asides_sent - report.asides) % _CYCLE
        if report.asides != self.asides_read % _CYCLE and unread > self.asides_unread:
            raise Breach(f"it has read {report.asides} nudges and probes, of {self.asides_sent}")
        self.asides_read = report.asides
        if not self.closed <= report.closed <= self.taken:
            # `taken` may be old: only a fresh count by the kernel proves the report wrong.
            self.recount()
            most = self.taken if self.counted else self.handed
            if not self.closed <= report.closed <= most:
                raise Breach(f"it reports {report.closed} closed, of {most} taken and {self.closed} before")
        self.closed, self.parked = report.closed, report.parked
        self.busy = report.busy
        self.tells_requests = self.tells_requests or report.busy > 0 or report.requests > 0
        self.orphaned = min(report.orphaned, report.busy)
        # Only the loop that serves sends reports, so any report ends a suspension; but the worker may ask for a pause.
        self.suspended = not report.taking
        self.late_in_a_row = 0
        self.reports += 1
        if self.penalty or report.full:
            self.suspected, self.full = False, report.full
            self._set_penalty()


@define(eq=False)
class PolicyMember:
    """A worker's place in the policy of one listener."""

    load: WorkerLoad
    turn: int
    """When the worker was last chosen here, in choices: the smallest number is next in turn."""
    newcomer: bool
    joined_at: int
    """The policy's total of choices when the worker joined, ..."""
    given: int = 0
    """... and how many of the choices since then were for this worker."""
    entry: Any = None
    """The valid place of the worker in the policy's index; any other entry is stale."""

    def __lt__(self, other: PolicyMember) -> bool:
        """Heaps compare members only where all else is equal: the worker has left and come back, and one is stale."""
        return False


@define(eq=False)
class Policy:
    """The workers of one listener, in the order in which they get connections.

    It is an index that is kept up to date as the workers change (`update`), and not a function over all of them.
    """

    name: ClassVar[str]
    by_peer: ClassVar[bool] = False
    """Whether it looks at the peer's address."""
    members: dict[int, PolicyMember] = Factory(dict)
    """By the worker's id."""
    total: int = 0
    """Choices so far."""

    def join(self, load: WorkerLoad, newcomer: bool) -> None:
        """Add a worker; a newcomer is one that joins workers that have served for a while."""
        self.members[load.id] = PolicyMember(load, self.total, newcomer, self.total)
        self.update(load)

    def leave(self, load: WorkerLoad) -> None:
        """Remove a worker: it is not chosen from now on."""
        member = self.members.pop(load.id, None)
        if member is not None:
            member.entry = None

    def end_newcomer(self, load: WorkerLoad) -> None:
        """Treat the worker as any other: its time as a newcomer is over."""
        if load.id in self.members:
            self.members[load.id].newcomer = False
            self.update(load)

    def update(self, load: WorkerLoad) -> None:
        """Look at a worker again: it may have room, or its load has sunk.

        That its load has risen, through another listener, is noticed when the worker comes up here.
        """

    def ready(self) -> bool:
        """Whether a worker has room.  Asked before each accept: the master accepts only what it can hand over."""
        raise NotImplementedError

    def choose(self, peer: Peer) -> WorkerLoad:
        """The next worker.  Call it only after `ready` has said yes, with the peer's address."""
        raise NotImplementedError

    def count_handoff(self, load: WorkerLoad) -> None:
        """One connection was handed to this worker."""
        self.total += 1
        load.handed += 1  # as `WorkerLoad.count_handoff` does: a call less for each connection
        load.unclaimed += 1
        member = self.members[load.id]
        member.given += 1
        member.turn = self.total
        self.update(load)

    def is_within_share(self, member: PolicyMember) -> bool:
        """Whether one more keeps a newcomer within its fair share, 1/N of the choices since it joined."""
        return not member.newcomer or member.given * len(self.members) <= self.total - member.joined_at
