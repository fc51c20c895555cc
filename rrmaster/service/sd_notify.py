"""What is systemd told while a master runs (sd_notify)?

The protocol is one datagram of ``NAME=value`` lines to the socket that NOTIFY_SOCKET names, sd_notify(3), so it is
written here.  The libraries for it: sdnotify's last release is of 2017; systemd-python's is of 2023, and needs
libsystemd and a compiler; cysystemd is maintained well, and is a compiled binding of the journal too.  None does more
for these lines than `socket.sendto`, and all of them either block on a full queue or lose the message.

Nothing here raises or waits.  A message that finds the queue of a busy systemd full is sent at the next occasion.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

import trio
from attrs import Factory, define

MAX_UNSENT = 16
"""Messages kept while systemd is too busy: more than one start, reload or stop sends."""

RETRY_S = 1.0
"""Seconds between attempts to send unsent messages, if no watchdog sets the pace."""

FULL_QUEUE = (BlockingIOError, InterruptedError)


@define(eq=False)
class Notifier:
    """Sends the state of a master to systemd, if systemd asked for it; made by `from_environment`.

    It opens its socket at once and keeps it: later, the process may have no descriptor left.
    """

    _socket: socket.socket | None = None
    _address: str | bytes = b""
    watchdog: float = 0.0
    """Seconds without a sign of life after which systemd kills the master; 0 if there is no watchdog."""
    _unsent: deque[bytes] = Factory(lambda: deque(maxlen=MAX_UNSENT))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], pid: int) -> Notifier:
        """The notifier that NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID ask for.  Without them it does nothing."""
        name = environ.get("NOTIFY_SOCKET", "")
        if not name.startswith(("/", "@")):  # none, or the vsock of a virtual machine, which is for the systemd in it
            return cls()
        address = b"\0" + os.fsencode(name[1:]) if name.startswith("@") else name
        usec = environ.get("WATCHDOG_USEC", "")
        for_us = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        watchdog = int(usec) / 1e6 if for_us and re.fullmatch(r"[0-9]{1,18}", usec) else 0.0
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        except OSError:
            return cls()  # no descriptor is left at the start: binding the addresses fails next, and reports it
        return cls(sock, address, watchdog)

    def ready(self, status: str = "") -> None:
        """The fleet is complete: after the start, and after a reload, whatever its result."""
        self._send("READY=1", *_status(status))

    def reloading(self) -> None:
        """A reload begins.  By the time, ``Type=notify-reload`` recognises which request for a reload it belongs to."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str = "") -> None:
        """The master stops, and accepts no more connections."""
        self._send("STOPPING=1", *_status(status))

    def status(self, text: str) -> None:
        """Set the line that ``systemctl status`` shows."""
        self._send(*_status(text or " "))

    async def feed(self, alive: Callable[[], Awaitable[None]]) -> None:
        """Send a sign of life each time half of the watchdog's period has passed and `alive` has returned.

        `alive` must return once the dispatching loop has turned: a master whose other tasks run while that loop does
        not serves no client, and must be killed.  Returns at once if there is no systemd to notify, else never.
        """
        if self._socket is None:
            return
        while True:
            begun = trio.current_time()
            self._flush()
            if self.watchdog:
                await alive()
                # The queue of unsent messages is bounded: a sign of life must not push out another message.
                if not self._unsent:
                    self._send("WATCHDOG=1")
            await trio.sleep_until(begun + (self.watchdog / 2 or RETRY_S))

    def close(self) -> None:
        """Send nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> None:
        if self._socket is not None:
            self._unsent.append("\n".join(lines).encode(errors="replace"))
            self._flush()

    def _flush(self) -> None:
        while self._unsent and self._socket is not None:
            try:
                self._socket.sendto(self._unsent[0], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, self._address)
            except FULL_QUEUE:
                return  # systemd is busy: `feed` and the next message try again
            except OSError:
                pass  # systemd does not listen any longer, and the message has no other reader
            self._unsent.popleft()


def _status(text: str) -> list[str]:
    """The assignment of a status, on one line: text after a newline would be an assignment of its own."""
    return [f"STATUS={' '.join(text.split())}"] if text else []
