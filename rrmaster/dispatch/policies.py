"""Which worker gets the next connection of a listener: the policies.

The rule that a policy stands for is in its `choose`.  The policies that look at every worker (random-two, ip-hash, the
user's own) are functions in all but name; the others keep an index, so that a choice costs the same with 2 workers and
with 128.

This module knows numbers.  Time and randomness are arguments.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import ClassVar

from attrs import Factory, define, field, frozen

from .load import Peer, Policy, PolicyMember, WorkerLoad

FULL_MARGIN = 1
"""least-loaded: by how many connections another worker may exceed one whose letterbox is full and still be given the
next.  Beyond that the connection waits in the backlog for the emptier worker: in a burst the worker that happens to
run first would otherwise get up to twice its share, and keep it (measured with 200 held connections on 4 workers and 2
processors: 40/46/49/65).  A worker that takes nothing at all is soon late, and then no connection waits for it."""

STICKY_BOUND = 1.25
"""ip-hash: no worker gets more than this multiple of the mean load for the sake of stickiness (Mirrokni et al.,
consistent hashing with bounded loads, 2016: the price of a bound of 1 + e is 1/e more moves; a quarter is the usual
choice)."""

STICKY_LEAST = 8
"""ip-hash: up to so many connections no worker is overloaded, whatever the mean is.  A browser opens six at once, and
where few connections are open a bound near the mean would send a client away for a single one of another's."""


_Entry = tuple[int, int, int, int, PolicyMember]
"""Cost (or, for a waiting newcomer, the total at which it has a share), busy, turn, id, member."""


@define(eq=False)
class LeastLoaded(Policy):
    """The least in hand, then the fewest busy requests, then the longest time without a turn.

    In hand are open connections, and requests in progress that have none.  A worker that says that it is full comes
    after all others.

    Busy comes late, with a report, so it only breaks ties: added to the connections it spoils bursts (8 of 200
    simulated bursts exact, against 200 of 200).

    Heaps with lazy deletion: an entry that is not its member's `entry` is stale, and is dropped when it comes up; one
    whose worker has got more through another listener is put back where it belongs.  Newcomers beyond their share wait
    in a heap of their own, ordered by the total at which they have a share again; they serve earlier only if no other
    worker has room.
    """

    name = "least-loaded"
    _heap: list[_Entry] = Factory(list)
    _full: list[_Entry] = Factory(list)
    """Workers that would be next but for their window."""
    _waiting: list[_Entry] = Factory(list)
    """Newcomers beyond their share."""
    _next: WorkerLoad | None = None
    """What `ready` has found, for `choose`."""

    def update(self, load: WorkerLoad) -> None:
        member = self.members.get(load.id)
        if member is not None:
            self._index(member)

    def count_handoff(self, load: WorkerLoad) -> None:
        # `Policy.count_handoff`, written out: this is where the time of a choice goes.
        self.total = total = self.total + 1
        load.handed += 1
        load.unclaimed += 1
        member = self.members[load.id]
        member.given += 1
        member.turn = total
        self._index(member)

    def _index(self, member: PolicyMember) -> None:
        load = member.load
        if not member.newcomer or self.is_within_share(member):
            # `load.cost`, written out: this runs once for each connection and once for each report.
            cost = load.handed - load.closed + load.orphaned + load.penalty
            member.entry = entry = (cost, load.busy, member.turn, load.id, member)
            heappush(self._heap, entry)
        else:
            due = member.joined_at + member.given * len(self.members)
            member.entry = (due, load.busy, member.turn, load.id, member)
            heappush(self._waiting, member.entry)
        # Stale entries below the top are never met; without this a heap would grow with the connections.
        if len(self._heap) + len(self._full) + len(self._waiting) > 4 * len(self.members) + 64:
            self._rebuild()

    def ready(self) -> bool:
        if self._waiting:
            self._release_newcomers()
        best, full = self._least_with_room(), None  # moves full workers to `_full`, ...
        if self._full:
            full = self._least_full()  # ... and those that have room again back
            best = self._least_with_room()
        if full is not None and best is not None and best.cost > full.cost + FULL_MARGIN:
            best = None
        elif best is None or best.full:
            best = self._early_newcomer(best)
        self._next = best
        return best is not None

    def choose(self, peer: Peer) -> WorkerLoad:
        if self._next is None:
            raise LookupError("no worker has room; call `ready` first")
        return self._next

    def _least_with_room(self) -> WorkerLoad | None:
        while self._heap:
            entry = self._heap[0]
            member = entry[4]
            load = member.load
            if member.entry is not entry:
                heappop(self._heap)
            elif entry[0] != load.handed - load.closed + load.orphaned + load.penalty:
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
        """The least loaded of the full workers.  A worker that has room by now goes back to the others."""
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
                    member.entry = (load.cost, load.busy, member.turn, load.id, member)
                    heappush(self._full, member.entry)
                    continue
            heappop(self._full)
        return None

    def _early_newcomer(self, best: WorkerLoad | None) -> WorkerLoad | None:
        """A newcomer beyond its share, if no other worker has room, or if all others are full and it is not."""
        early = (entry[4].load for entry in sorted(self._waiting) if entry[4].entry is entry)
        wanted = (load for load in early if (best is None or not load.full) and load.has_room())
        return min(wanted, key=lambda load: load.full, default=best)

    def _release_newcomers(self) -> None:
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
    """Node's policy: a worker that has taken its connection queues up again, and the first in the queue is next.

    (lib/internal/cluster/round_robin_handle.js: an insertion-ordered list of free workers, paced by their
    acknowledgements.)  Here the acknowledgement is an empty letterbox, so at each choice the workers that were handed a
    connection longest ago are counted.  While no worker is free, the window still lets one connection wait behind
    another.
    """

    name = "round-robin"
    COUNTED_PER_CHOICE: ClassVar[int] = 4
    """Letterboxes counted for one choice: more than one choice fills, so that the free list catches up."""
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
            raise LookupError("no worker has room; call `ready` first")
        return load

    def _next(self) -> WorkerLoad | None:
        self._find_free()
        free = next((load for load in self._free if not load.penalty and load.has_room()), None)
        if free is not None:
            return free
        with_room = (load for load in (*self._given, *self._free) if load.has_room())
        return min(with_room, key=lambda load: (load.penalty, self.members[load.id].turn), default=None)

    def _find_free(self) -> None:
        """Move workers with an empty letterbox to the end of the free list; the others are counted again later."""
        for _ in range(min(self.COUNTED_PER_CHOICE, len(self._given))):
            load = next(iter(self._given))
            del self._given[load]
            free = load.serving and not load.suspended and (load.unclaimed == 0 or load.recount() == 0)
            (self._free if free else self._given)[load] = None


@define(eq=False)
class _ScanningPolicy(Policy):
    """A policy that looks at every worker with room.

    Full ones are shown only if all are full, and newcomers beyond their share only if they are alone.
    """

    _candidates: list[WorkerLoad] = Factory(list)

    def ready(self) -> bool:
        with_room = [member for member in self.members.values() if member.load.has_room()]
        best = [member for member in with_room if not member.load.full] or with_room
        shown = [member for member in best if self.is_within_share(member)] or best
        self._candidates = [member.load for member in shown]
        return bool(with_room)

    def choose(self, peer: Peer) -> WorkerLoad:
        return self.choose_from(self._candidates, peer)

    def choose_from(self, candidates: Sequence[WorkerLoad], peer: Peer) -> WorkerLoad:
        """The rule itself."""
        raise NotImplementedError

    def least_loaded(self, candidates: Sequence[WorkerLoad]) -> WorkerLoad:
        """The least loaded worker, then the least busy, then the one with the longest time without a turn."""
        return min(candidates, key=lambda load: (load.cost, load.busy, self.members[load.id].turn))


@define(eq=False)
class RandomTwo(_ScanningPolicy):
    """Two workers at random, and the less loaded of them (Mitzenmacher, The power of two choices, 2001)."""

    name = "random-two"
    random: random.Random = Factory(random.Random)

    def choose_from(self, candidates: Sequence[WorkerLoad], peer: Peer) -> WorkerLoad:
        pair = self.random.sample(candidates, min(2, len(candidates)))
        return min(pair, key=lambda load: (load.cost, load.busy))


@define(eq=False)
class IpHash(_ScanningPolicy):
    """The same client address gets the same slot, while the worker there has room and is not overloaded.

    Rendezvous hashing over slots (Thaler and Ravishankar, 1998): a worker's replacement inherits its clients, and
    one more worker moves only its own share.  Bounded by `STICKY_BOUND`.  Clients of a unix socket have no
    address; they go to the least loaded worker.
    """

    name = "ip-hash"
    by_peer = True

    def choose_from(self, candidates: Sequence[WorkerLoad], peer: Peer) -> WorkerLoad:
        host = peer[0] if isinstance(peer, tuple) and peer else None
        if host is None:
            return self.least_loaded(candidates)
        mean = (sum(load.in_hand for load in candidates) + 1) / len(candidates)
        # Above the mean, so at least one worker fits.
        bound = max(math.ceil(mean * STICKY_BOUND), STICKY_LEAST)
        fitting = [load for load in candidates if load.in_hand + 1 <= bound]
        return max(fitting, key=lambda load: (_score(host, load.slot), -load.in_hand))


def _score(host: str, slot: int) -> int:
    """A hash of host and slot together.  crc32 alone is linear: the multiplication mixes it (Knuth's golden ratio, and
    a fold of the upper half)."""
    mixed = zlib.crc32(f"{slot}/{host}/{slot}".encode()) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ mixed >> 32) * 0xD6E8FEB86659FD93 & 0xFFFFFFFFFFFFFFFF


@frozen
class Candidate:
    """A worker with room, as the user's own policy sees it."""

    id: int
    slot: int
    load: int
    """What it has in hand: open connections, and requests in progress whose connection is gone."""
    busy: int
    """Requests in progress, as last reported."""


@define(eq=False)
class UserPolicy(_ScanningPolicy):
    """A callable ``(candidates, peer) -> candidate``.  If it fails, that is logged, and the least loaded is chosen."""

    name = "user"
    by_peer = True
    rule: Callable[[Sequence[Candidate], Peer], Candidate] = field(kw_only=True)
    on_error: Callable[[str], None] = field(kw_only=True)

    def choose_from(self, candidates: Sequence[WorkerLoad], peer: Peer) -> WorkerLoad:
        shown = {Candidate(load.id, load.slot, load.in_hand, load.busy): load for load in candidates}
        try:
            return shown[self.rule(tuple(shown), peer)]
        except Exception as error:
            self.on_error(f"the policy failed ({type(error).__name__}: {error}); the least loaded worker was chosen")
            return self.least_loaded(candidates)


def policy_named(name: str, rng: random.Random) -> Policy:
    """One of `config.names.POLICIES`, new and empty."""
    if name == RandomTwo.name:
        return RandomTwo(random=rng)
    kinds: dict[str, type[Policy]] = {kind.name: kind for kind in (LeastLoaded, RoundRobin, IpHash)}
    return kinds[name]()
