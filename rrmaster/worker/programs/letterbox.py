"""How does a loop wait for new connections while unwanted ones stay in the letterbox?  By an edge-triggered epoll."""

from __future__ import annotations

import select

from attrs import define

from ...protocol.channel import Letterbox


@define(eq=False)
class EdgeTriggeredLetterbox(Letterbox):
    """A letterbox whose descriptor is readable once for each message that arrives.

    The line itself is readable for as long as a message stays there: a loop that waits for it would spin while a
    connection is left to the master.  `fileno` is therefore that of an epoll which watches the line edge-triggered.
    """

    _epoll: select.epoll

    @classmethod
    def over(cls, letterbox: Letterbox) -> EdgeTriggeredLetterbox:
        """Wrap this letterbox, and own its line from now on."""
        epoll = select.epoll()
        epoll.register(letterbox.line.fileno(), select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        return cls(letterbox.line, epoll)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def close(self) -> None:
        self._epoll.close()
        super().close()

    def clear_edge(self) -> None:
        """Consume the event for what is in the letterbox now; look there again afterwards, for what came meanwhile."""
        self._epoll.poll(0)
