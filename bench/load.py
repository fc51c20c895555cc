"""Clients where there is no C compiler: they do what load.c does, at a higher cost.

``python -m bench.load PORT SECONDS CONCURRENCY LENGTH COUNT``.  The clients then limit connections per second, and only
the master's cost per connection is meaningful.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time

from attrs import Factory, define

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

PATIENCE = 3.0
"""Seconds after the end; a connection that takes longer has failed."""


@define(eq=False)
class _Client:
    sock: socket.socket
    asked: bool = False
    length: int = 0
    since: float = Factory(time.monotonic)


@define(eq=False)
class Load:
    """`concurrency` clients at a time, each of which connects, sends a request, reads to the end, and begins again."""

    port: int
    right: int
    """Bytes of the one right answer."""
    latencies: list[float] = Factory(list)
    failed: int = 0
    _begun: int = 0
    _clients: dict[int, _Client] = Factory(dict)
    _epoll: select.epoll = Factory(select.epoll)

    def run(self, seconds: float, concurrency: int, most: int) -> dict[str, float]:
        """Run the clients; returns what load.c prints."""
        start = last = time.monotonic()
        for _ in range(concurrency):
            self._begin()
        while self._clients and time.monotonic() - start < seconds + PATIENCE:
            for fd, _ in self._epoll.poll(0.1):
                if self._move(self._clients[fd]):
                    last = time.monotonic()
                    if last - start < seconds and self._begun < most:
                        self._begin()
        self.failed += len(self._clients)
        ordered = sorted(self.latencies) or [0.0]
        p50, p99 = (ordered[int((len(ordered) - 1) * q)] * 1e6 for q in (0.5, 0.99))
        done = len(self.latencies)
        return {"done": done, "failed": self.failed, "seconds": last - start, "p50_us": p50, "p99_us": p99}

    def _begin(self) -> None:
        self._begun += 1
        client = _Client(socket.socket())
        client.sock.setblocking(False)
        client.sock.connect_ex(("127.0.0.1", self.port))
        self._clients[client.sock.fileno()] = client
        self._epoll.register(client.sock.fileno(), select.EPOLLOUT)

    def _move(self, client: _Client) -> bool:
        """Whether this connection is over."""
        try:
            if not client.asked:
                client.sock.send(REQUEST)
                client.asked = True
                self._epoll.modify(client.sock.fileno(), select.EPOLLIN)
                return False
            while data := client.sock.recv(4096):
                client.length += len(data)
        except BlockingIOError:
            return False
        except OSError:
            client.length = -1
        return self._end(client)

    def _end(self, client: _Client) -> bool:
        del self._clients[client.sock.fileno()]
        client.sock.close()
        if client.length == self.right:
            self.latencies.append(time.monotonic() - client.since)
        else:
            self.failed += 1
        return True


def main(argv: list[str]) -> None:
    port, seconds, concurrency, right, most = argv
    print(json.dumps(Load(int(port), int(right)).run(float(seconds), int(concurrency), int(most))))


if __name__ == "__main__":
    main(sys.argv[1:])
