"""Which requests are in progress, where a connection carries many?"""

from __future__ import annotations

from attrs import Factory, define


@define
class Requests:
    """Counters where a connection carries many requests; those begun and not ended are in progress."""

    begun: int = 0
    ended: int = 0
    one_at_a_time: bool = False
    """Whether a connection carries one request at a time: not so with HTTP/2."""
    running: dict[int, float] = Factory(dict)
    """When each request in progress began, to the last beat, by the ``id`` of its scope; the oldest first."""
    websockets: set[int] = Factory(set)
    """The websockets in progress, by the ``id`` of their scope."""
    orphans: set[int] = Factory(set)
    """Those of both whose connection is gone."""

    def begin(self) -> None:
        """One more has begun."""
        self.begun += 1

    def end(self) -> None:
        """One has ended."""
        self.ended += 1

    def lose_connection(self, scope: object) -> None:
        """The connection of this scope is gone.  The request may have ended before."""
        if id(scope) in self.running or id(scope) in self.websockets:
            self.orphans.add(id(scope))

    def without_connection(self, connections: int) -> int:
        """How many in progress have none, where there are so many connections.

        A client that leaves does not end its request.  Where a request goes on after its answer (background tasks) and
        the connection has gone on to the next, or is parked, the server does not say which it is: a surplus tells.
        """
        surplus = self.begun - self.ended - connections if self.one_at_a_time else 0
        return max(len(self.orphans), surplus, 0)

    def oldest(self, now: float) -> float:
        """Seconds for which the oldest request has been in progress; 0 if there is none."""
        for began in self.running.values():
            return now - began
        return 0.0
