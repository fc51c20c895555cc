"""Clients with a ledger: `python load.py HOST:PORT CLIENTS LEDGER`, until SIGTERM.

Each request ends in exactly one line of the ledger: when it began and ended, what it was, how it ended, and which
replica answered.  Nothing is sent a second time.  Three of four clients keep their connection, the others make one for
each request; one request of four is a POST, which no proxy may send twice, and one of 25 takes a second.
"""

import json
import select
import signal
import sys
import time

import trio

PATIENCE = 20.0
"""Seconds after which a client gives a request up."""

PAUSE = 0.02
"""Seconds between two requests of a client."""

SHAPES = [("GET", "/"), ("GET", "/"), ("GET", "/"), ("POST", "/")] * 6 + [("GET", "/long")]


class Ended(Exception):
    """The connection ended before the answer did."""


async def asked(stream: trio.SocketStream, method: str, path: str, keep: bool) -> tuple[str, str, bool]:
    """Send a request; returns the status, the body, and whether the connection can be used again."""
    body = b"x" * 1000 if method == "POST" else b""
    head = f"{method} {path} HTTP/1.1\r\nHost: shop\r\nContent-Length: {len(body)}\r\n"
    head += "" if keep else "Connection: close\r\n"
    await stream.send_all(head.encode() + b"\r\n" + body)
    data = b""
    while b"\r\n\r\n" not in data:
        data += await more(stream)
    head_back, _, rest = data.partition(b"\r\n\r\n")
    lines = head_back.decode().lower().split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines[1:])
    while len(rest) < int(fields["content-length"]):
        rest += await more(stream)
    status = lines[0].split()[1]
    return status, rest.decode(), keep and fields.get("connection") != "close"


async def more(stream: trio.SocketStream) -> bytes:
    data = await stream.receive_some()
    if not data:
        raise Ended
    return bytes(data)


def is_closed(stream: trio.SocketStream) -> bool:
    """Whether the other side has ended it while it was idle, which any client looks at before it sends."""
    return bool(select.select([stream.socket], [], [], 0)[0])


class Client:
    def __init__(self, host: str, port: int, number: int, ledger: list) -> None:
        self.host, self.port, self.keep, self.ledger = host, port, number % 4 != 0, ledger
        self.turn = number * 7
        self.stream: trio.SocketStream | None = None

    async def run(self, over: trio.Event) -> None:
        while not over.is_set():
            method, path = SHAPES[self.turn % len(SHAPES)]
            self.turn += 1
            began = time.time()
            how, replica = await self.one(method, path)
            self.ledger.append((began, time.time(), method, path, how, replica))
            await trio.sleep(PAUSE)

    async def one(self, method: str, path: str) -> tuple[str, str]:
        kept = False
        try:
            with trio.fail_after(PATIENCE):
                if self.stream is None or is_closed(self.stream):
                    await self.drop()
                    self.stream = await trio.open_tcp_stream(self.host, self.port)
                status, body, kept = await asked(self.stream, method, path, self.keep)
            return status, body if status == "200" else ""
        except trio.TooSlowError:
            return "timed out", ""
        except (Ended, trio.BrokenResourceError):
            return "cut off", ""
        except OSError:
            return "refused", ""
        finally:
            if not kept:
                await self.drop()

    async def drop(self) -> None:
        if self.stream is not None:
            await trio.aclose_forcefully(self.stream)
            self.stream = None


async def main(address: str, clients: str, path: str) -> None:
    host, _, port = address.rpartition(":")
    ledger: list = []
    over = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            for number in range(int(clients)):
                nursery.start_soon(Client(host, int(port), number, ledger).run, over)
            async for _ in signals:
                over.set()
                break
    with open(path, "w") as file:
        json.dump(ledger, file)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
