"""Clients that keep their connections whatever the server says, and count who answers.

``python -m bench.stubborn PORT SECONDS CLIENTS PATH``: each asks again as soon as it has its answer, over the same
connection, also after ``Connection: close``; when that is closed, it opens another.  A request that was sent and not
answered has failed.  Prints a line for each answer: the time since the beginning in us, and the body; and at the end
``failed N``.  One thread, one epoll.
"""

from __future__ import annotations

import select
import socket
import sys
import time

from attrs import define

from .requests import ANSWERED, whole


@define(eq=False)
class Client:
    """A client, and what it has been answered so far."""

    sock: socket.socket
    heard: bytes = b""


def main(port: int, seconds: float, clients: int, path: str) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    epoll, by_fd, failed = select.epoll(), dict[int, Client](), 0
    lines: list[str] = []

    def begin() -> None:
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        by_fd[sock.fileno()] = Client(sock)
        epoll.register(sock.fileno(), select.EPOLLIN)
        sock.sendall(request)

    def end(client: Client) -> None:
        del by_fd[client.sock.fileno()]
        client.sock.close()

    began = time.monotonic()
    for _ in range(clients):
        begin()
    while (now := time.monotonic()) < began + seconds:
        for fd, _ in epoll.poll(0.1):
            client = by_fd[fd]
            try:
                data = client.sock.recv(65536)
                if not data:
                    raise ConnectionResetError
                client.heard += data
                if whole(client.heard)[0] == ANSWERED:
                    body = client.heard.partition(b"\r\n\r\n")[2].decode().strip()
                    lines.append(f"{(now - began) * 1e6:.0f} {body}")
                    client.heard = b""
                    client.sock.sendall(request)
            except (ConnectionResetError, BrokenPipeError):
                failed += 1
                end(client)
                begin()
    print("\n".join(lines))
    print(f"failed {failed}")


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
