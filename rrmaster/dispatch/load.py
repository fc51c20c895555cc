"""Who gets the next connection: how load is counted, who has room, and the policies.

Load is the difference of two counters, each kept by the side that knows: ``handed`` is ours, ``closed`` is told by
the worker as a count since birth.  A late report only makes a worker look busier.  What was handed over and not taken
(*unclaimed*) is the kernel's count, so no worker can fake it and none has to tell it.

A policy is an index over the workers of one listener, kept up to date as they change (`Policy.offer`), and not a
function over all of them: choosing must cost the same with 2 workers and with 128.  The rule that a policy stands for
is in its `choose` all the same, and the policies that look at everybody (random-two, ip-hash, the user's own) are
functions in all but name.

A worker has one `WorkerLoad`, its counters, and one `PolicyMember` in the policy of each listener it serves: whose turn it is, and
what a newcomer's share is, are questions of a listener; load and room are the worker's.

This module knows numbers.  It does not know sockets, clocks or processes: counting the letterbox is a callable, time
and randomness are arguments.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import Any, ClassVar

from attrs import Factory, define, field, frozen

from ..protocol import wire

Peer = Any
"""An address as accept() returns it: (host, port, ...) for TCP; "" or bytes for a unix socket."""

NEWCOMER_S = 2.0
"""Seconds for which a worker new to a serving fleet gets no more than its fair share of the new connections.
Least-loaded alone would give it all of them: cold caches, and, if its code is bad, the largest possible damage."""

FULL_MARGIN = 1
"""least-loaded: by how many connections another may have more than one whose letterbox is full, and be given the next
all the same.  Beyond that the connection waits in the backlog for the emptier one: in a burst the worker that happens
to run first would otherwise get up to twice its share, and keep it (measured with 200 held connections on 4 workers
and 2 processors: 40/46/49/65).  Who does not take at all is soon late, and then nobody waits for it."""

SUSPECT_PENALTY = 2
"""Connections that a suspect (`lateness`) counts as having besides its own.  So it comes after all who have about as
many and live; in simulations of blocked workers 1, 2, 3, 4, 8 and any number did alike.  It has to have a bound: in a
burst on a busy machine somebody always waits for a processor, and connections that stay must be dealt evenly all the
same (200 on 4 workers: without a bound the fullest had up to 2.8 times its share)."""

SHORT_WINDOW = 2
"""The window while many are suspect.  Whoever still lives is given all, and blocks next, with as much before it.  Two
and not one, so that it has the next at hand when it has finished one (simulated, 8 workers at 60 %: p99 of those who
do not block 94 ms with 8, 57 with 2, 66 with 1; a queue without any error has 52)."""

STICKY_BOUND = 1.25
"""ip-hash: no worker gets more than this multiple of the mean load for stickiness' sake (Mirrokni et al., consistent
hashing with bounded loads, 2016: the price of a bound of 1 + e is 1/e more moves; a quarter is the usual choice)."""


class Breach(Exception):
    """A worker said or did what no honest worker can.  It is not believed any more: killed and replaced."""


@define(eq=False)
class WorkerLoad:
    """What the dispatcher knows of one worker."""

    id: int
    slot: int
    count: Callable[[], int]
    """Asks the kernel how many messages lie in its letterbox."""
    window: int = 8
    """How many may lie unclaimed, just now."""
    limit: int = 10_000
    handed: int = 0
    closed: int = 0
    busy: int = 0
    unclaimed: int = 0
    """An upper bound: the kernel's last count, and what was handed over since."""
    asides_sent: int = 0
    """How many nudges and probes were sent to it, ..."""
    asides_read: int = 0
    """... and how many it says it has read: the others lie in its letterbox, and are no clients."""
    serving: bool = False
    suspended: bool = False
    late_in_a_row: int = 0
    """How often in a row it was found late."""
    reports: int = 0
    """Reports that have come from it."""
    penalty: int = 0
    """`SUSPECT_PENALTY` while it is suspect: it was given something, and has not been heard since."""
    full_window: int = field(default=Factory(lambda self: self.window, takes_self=True))
    """What `window` is, but while letterboxes are kept short."""

    @property
    def connections(self) -> int:
        """Connections it has, taken or not."""
        return self.handed - self.closed

    @property
    def cost(self) -> int:
        """What it is compared by: its load, and more while it is suspect."""
        return self.handed - self.closed + self.penalty

    @property
    def taken(self) -> int:
        """Connections it had taken when its letterbox was last counted."""
        return self.handed - self.unclaimed

    def recount(self) -> int:
        """Ask the kernel how many are unclaimed."""
        self.unclaimed = max(self.count() - self.asides_unread, 0)
        return self.unclaimed

    @property
    def asides_unread(self) -> int:
        """Nudges and probes in its letterbox."""
        return (self.asides_sent - self.asides_read) % 65536

    def has_room(self) -> bool:
        """Whether one more may be handed to it.  The kernel is asked only when the last count says full."""
        if not self.serving or self.suspended or self.handed - self.closed >= self.limit:
            return False
        return self.unclaimed < self.window or self.recount() < self.window

    def apply(self, report: wire.Report) -> None:
        """Take its report to heart.  Raises Breach for counts that cannot be."""
        if (
            report.asides != self.asides_read % 65536
            and (self.asides_sent - report.asides) % 65536 > self.asides_unread
        ):
            raise Breach(f"it has read {report.asides} nudges and probes, of {self.asides_sent}")
        self.asides_read = report.asides
        if not self.closed <= report.closed <= self.taken:
            # `taken` may be old: only the kernel's count now makes it a lie.
            self.recount()
            if not self.closed <= report.closed <= self.taken:
                raise Breach(f"it reports {report.closed} closed, of {self.taken} taken and {self.closed} before")
        self.closed = report.closed
        self.busy = report.busy
        self.suspended = not report.taking
        self.late_in_a_row = self.penalty = 0
        self.reports += 1

    def set_short(self, short: bool) -> None:
        """Let no more than `SHORT_WINDOW` lie in its letterbox; or again as many as it is to have."""
        self.window = min(SHORT_WINDOW, self.full_window) if short else self.full_window

    def is_merely_full(self) -> bool:
        """Whether only its window is in the way."""
        return self.serving and not self.suspended and self.handed - self.closed < self.limit


@define(eq=False)
class PolicyMember:
    """A worker's place in the policy of one listener."""

    load: WorkerLoad
    turn: int
    """When it was last chosen here, in choices: the smallest is whose turn it is."""
    newcomer: bool
    joined_at: int
    """The policy's total of choices when it joined, ..."""
    given: int = 0
    """... and how many of those since were for this worker."""
    entry: Any = None
    """Its valid place in the policy's index; any other is stale."""

    def __lt__(self, other: PolicyMember) -> bool:
        """In a heap all else of two entries is the same only if the worker has left and come back: one is stale."""
        return False


@define(eq=False)
class Policy:
    """The workers of one listener, in the order in which they get connections."""

    name: ClassVar[str]
    members: dict[int, PolicyMember] = Factory(dict)
    """By the worker's id."""
    total: int = 0

    def join(self, load: WorkerLoad, newcomer: bool) -> None:
        """A worker enters; a newcomer is one that joins others who have been serving for a while."""
        self.members[load.id] = PolicyMember(load, self.total, newcomer, self.total)
        self.update(load)

    def leave(self, load: WorkerLoad) -> None:
        """A worker leaves; nothing is chosen for it any more."""
        member = self.members.pop(load.id, None)
        if member is not None:
            member.entry = None

    def end_newcomer(self, load: WorkerLoad) -> None:
        """Its time as a newcomer is over."""
        if load.id in self.members:
            self.members[load.id].newcomer = False
            self.update(load)

    def update(self, load: WorkerLoad) -> None:
        """It may have room (again), or its load has sunk.  (That it has risen, through another listener, is seen when
        it comes up here.)"""

    def ready(self) -> bool:
        """Whether somebody has room.  Asked before each accept: nothing is accepted that nobody can take."""
        raise NotImplementedError

    def choose(self, peer: Peer) -> WorkerLoad:
        """The next one.  Call it only when `ready`, with the peer's address."""
        raise NotImplementedError

    def count_handoff(self, load: WorkerLoad) -> None:
        """One was handed to it."""
        self.total += 1
        load.handed += 1
        load.unclaimed += 1
        member = self.members[load.id]
        member.given += 1
        member.turn = self.total
        self.update(load)

    def fair(self, member: PolicyMember) -> bool:
        """Whether one more keeps a newcomer within its fair share, 1/N of the choices since it joined."""
        return not member.newcomer or member.given * len(self.members) <= self.total - member.joined_at


_Entry = tuple[int, int, int, int, PolicyMember]
"""Burden (or, waiting, the total at which it has a share), busy, turn, id, and whose it is."""


@define(eq=False)
class LeastLoaded(Policy):
    """The fewest open connections, then the fewest busy requests, then whose turn it is.

    Busy comes late, with a report, so it only breaks ties: added to the connections it spoils bursts (8 of 200
    simulated bursts exact, against 200 of 200).  Heaps with lazy deletion: an entry that is not its member's `entry`
    is stale, and is dropped when it comes up; one whose worker has got more through another listener is put back where
    it belongs.  Newcomers beyond their share wait in a heap of their own, ordered by the total at which they have a
    share again; they serve early only if nobody else has room.
    """

    name = "least-loaded"
    _heap: list[_Entry] = Factory(list)
    _full: list[_Entry] = Factory(list)
    """Those who would be next but for their window."""
    _waiting: list[_Entry] = Factory(list)
    """Newcomers beyond their share."""
    _pick: WorkerLoad | None = None

    def update(self, load: WorkerLoad) -> None:
        member = self.members.get(load.id)
        if member is not None:
            self._offer(member)

    def count_handoff(self, load: WorkerLoad) -> None:
        # As `Policy.handed` has it, written out: this is where the time goes.
        self.total = total = self.total + 1
        load.handed += 1
        load.unclaimed += 1
        member = self.members[load.id]
        member.given += 1
        member.turn = total
        self._offer(member)

    def _offer(self, member: PolicyMember) -> None:
        load = member.load
        if not member.newcomer or self.fair(member):
            member.entry = entry = (load.handed - load.closed + load.penalty, load.busy, member.turn, load.id, member)
            heappush(self._heap, entry)
        else:
            due = member.joined_at + member.given * len(self.members)
            member.entry = (due, load.busy, member.turn, load.id, member)
            heappush(self._waiting, member.entry)
        if len(self._heap) + len(self._full) + len(self._waiting) > 4 * len(self.members) + 64:
            self._rebuild()

    def _put(self, member: PolicyMember, heap: list[_Entry]) -> None:
        load = member.load
        member.entry = (load.handed - load.closed + load.penalty, load.busy, member.turn, load.id, member)
        heappush(heap, member.entry)

    def ready(self) -> bool:
        if self._waiting:
            self._admit()
        best, full = self._top(), None  # moves those who are full to the others of their kind, ...
        if self._full:
            full = self._least_full()  # ... and those who are not any more back
            best = self._top()
        if full is not None and best is not None and best.cost > full.cost + FULL_MARGIN:
            best = None
        elif best is None:
            best = self._early()
        self._pick = best
        return best is not None

    def choose(self, peer: Peer) -> WorkerLoad:
        if self._pick is None:
            raise LookupError("nobody has room; ask `ready` first")
        return self._pick

    def _top(self) -> WorkerLoad | None:
        """The least loaded with room."""
        while self._heap:
            entry = self._heap[0]
            member = entry[4]
            load = member.load
            if member.entry is not entry:
                heappop(self._heap)
            elif entry[0] != load.handed - load.closed + load.penalty:
                heappop(self._heap)
                self.update(load)
            elif load.has_room():
                return load
            else:
                heappop(self._heap)
                if load.is_merely_full():
                    heappush(self._full, entry)
        return None

    def _least_full(self) -> WorkerLoad | None:
        """The least loaded of those who are full; who has room by now goes back."""
        while self._full:
            entry = self._full[0]
            member = entry[4]
            load = member.load
            if member.entry is entry and load.is_merely_full():
                if load.has_room():
                    heappush(self._heap, entry)
                elif entry[0] == load.cost:
                    return load
                else:
                    heappop(self._full)
                    self._put(member, self._full)
                    continue
            heappop(self._full)
        return None

    def _early(self) -> WorkerLoad | None:
        """A newcomer whose turn it is not yet, since nobody else has room."""
        early = (entry[4] for entry in sorted(self._waiting) if entry[4].entry is entry)
        return next((member.load for member in early if member.load.has_room()), None)

    def _admit(self) -> None:
        while self._waiting and self._waiting[0][0] <= self.total:
            entry = heappop(self._waiting)
            if entry[4].entry is entry:
                self.update(entry[4].load)

    def _rebuild(self) -> None:
        for heap in (self._heap, self._full, self._waiting):
            heap[:] = [entry for entry in heap if entry[4].entry is entry]
            heapify(heap)


@define(eq=False)
class RoundRobin(Policy):
    """Node's: whoever has taken what it was given queues up again, and the first in the queue is next.

    (lib/internal/cluster/round_robin_handle.js: an insertion-ordered list of free workers, paced by their
    acknowledgements.)  Here the acknowledgement is an empty letterbox, so at each choice the workers handed to
    longest ago are asked; with nobody free, the window still lets one wait behind another.
    """

    name = "round-robin"
    LOOKS: ClassVar[int] = 4
    """Letterboxes counted for one choice: more than are filled by it, so that the free list catches up."""
    _free: dict[WorkerLoad, None] = Factory(dict)
    _given: dict[WorkerLoad, None] = Factory(dict)

    def update(self, load: WorkerLoad) -> None:
        if load.id in self.members and load not in self._free:
            self._given.setdefault(load)

    def leave(self, load: WorkerLoad) -> None:
        Policy.leave(self, load)
        self._free.pop(load, None)
        self._given.pop(load, None)

    def count_handoff(self, load: WorkerLoad) -> None:
        self._free.pop(load, None)
        self._given.pop(load, None)
        Policy.count_handoff(self, load)

    def ready(self) -> bool:
        return self._next() is not None

    def choose(self, peer: Peer) -> WorkerLoad:
        load = self._next()
        if load is None:
            raise LookupError("nobody has room; ask `ready` first")
        return load

    def _next(self) -> WorkerLoad | None:
        self._collect()
        free = next((load for load in self._free if not load.penalty and load.has_room()), None)
        if free is not None:
            return free
        roomy = (load for load in (*self._given, *self._free) if load.has_room())
        return min(roomy, key=lambda load: (load.penalty, self.members[load.id].turn), default=None)

    def _collect(self) -> None:
        """Move those whose letterbox is empty to the end of the free list; the others keep for the next time."""
        for _ in range(min(self.LOOKS, len(self._given))):
            load = next(iter(self._given))
            del self._given[load]
            free = load.serving and not load.suspended and (load.unclaimed == 0 or load.recount() == 0)
            (self._free if free else self._given)[load] = None


@define(eq=False)
class _ScanningPolicy(Policy):
    """A policy that looks at everybody with room.  Newcomers beyond their share are not shown, if others are."""

    _candidates: list[WorkerLoad] = Factory(list)

    def ready(self) -> bool:
        roomy = [member for member in self.members.values() if member.load.has_room()]
        self._candidates = [member.load for member in [member for member in roomy if self.fair(member)] or roomy]
        return bool(roomy)

    def choose(self, peer: Peer) -> WorkerLoad:
        return self.among(self._candidates, peer)

    def among(self, candidates: Sequence[WorkerLoad], peer: Peer) -> WorkerLoad:
        """The rule itself."""
        raise NotImplementedError

    def least(self, candidates: Sequence[WorkerLoad]) -> WorkerLoad:
        """The least loaded, then the least busy, then whose turn it is."""
        return min(candidates, key=lambda load: (load.cost, load.busy, self.members[load.id].turn))


@define(eq=False)
class RandomTwo(_ScanningPolicy):
    """Two at random, and the less loaded of them (Mitzenmacher, The power of two choices, 2001)."""

    name = "random-two"
    random: random.Random = Factory(random.Random)

    def among(self, candidates: Sequence[WorkerLoad], peer: Peer) -> WorkerLoad:
        pair = self.random.sample(candidates, min(2, len(candidates)))
        return min(pair, key=lambda load: (load.cost, load.busy))


@define(eq=False)
class IpHash(_ScanningPolicy):
    """The same client address gets the same slot, while that slot has room and is not overloaded.

    Rendezvous hashing over slots (Thaler and Ravishankar, 1998): a worker's replacement inherits its clients, and
    one more worker moves only its own share.  Bounded by `STICKY_BOUND`.  Clients of a unix socket have no
    address; they go to the least loaded.
    """

    name = "ip-hash"

    def among(self, candidates: Sequence[WorkerLoad], peer: Peer) -> WorkerLoad:
        host = peer[0] if isinstance(peer, tuple) and peer else None
        if host is None:
            return self.least(candidates)
        mean = (sum(load.connections for load in candidates) + 1) / len(candidates)
        bound = math.ceil(mean * STICKY_BOUND)  # at least one above the mean, so somebody always fits
        fitting = [load for load in candidates if load.connections + 1 <= bound]
        return max(fitting, key=lambda load: (_score(host, load.slot), -load.connections))


def _score(host: str, slot: int) -> int:
    """A number that host and slot decide together.  crc32 alone is linear: the multiplication mixes it (Knuth's
    golden ratio, and a fold of the upper half)."""
    mixed = zlib.crc32(f"{slot}/{host}/{slot}".encode()) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ mixed >> 32) * 0xD6E8FEB86659FD93 & 0xFFFFFFFFFFFFFFFF


@frozen
class Candidate:
    """A worker with room, as a policy of the user's sees it."""

    id: int
    slot: int
    load: int
    """Open connections, handed over and not yet closed."""
    busy: int
    """Requests in progress, as last reported."""


@define(eq=False)
class UserPolicy(_ScanningPolicy):
    """A callable ``(candidates, peer) -> candidate``.  An error in it is told, and the least loaded gets it."""

    name = "user"
    rule: Callable[[Sequence[Candidate], Peer], Candidate] = field(kw_only=True)
    on_error: Callable[[str], None] = field(kw_only=True)

    def among(self, candidates: Sequence[WorkerLoad], peer: Peer) -> WorkerLoad:
        shown = {Candidate(p.id, p.slot, p.connections, p.busy): p for p in candidates}
        try:
            return shown[self.rule(tuple(shown), peer)]
        except Exception as error:
            self.on_error(f"the policy failed ({type(error).__name__}: {error}); the least loaded worker was chosen")
            return self.least(candidates)


def policy_named(name: str, rng: random.Random) -> Policy:
    """One of `spelling.POLICIES`, new and empty."""
    if name == RandomTwo.name:
        return RandomTwo(random=rng)
    kinds: dict[str, type[Policy]] = {kind.name: kind for kind in (LeastLoaded, RoundRobin, IpHash)}
    return kinds[name]()
