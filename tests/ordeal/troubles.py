"""What is done to a fleet.  Each trouble is a function; a seed decides which one comes, and when."""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio
from attrs import define

from .clients import Asker
from .fleet import Master
from .ledger import Ledger


@define(eq=False)
class Troubles:
    """Does them to one master."""

    master: Master
    asker: Asker
    ledger: Ledger
    luck: random.Random
    nursery: trio.Nursery

    async def one(self) -> None:
        """Do one, chosen by luck."""
        name = self.luck.choices(list(ALL), weights=[weight for weight, _ in ALL.values()])[0]
        self.ledger.troubles[name] += 1
        await ALL[name][1](self)

    async def _worker(self) -> int | None:
        """The process id of a worker that serves."""
        serving = [w.pid for w in (await self.master.status()).workers if w.state == "serving" and w.pid]
        return self.luck.choice(serving) if serving else None

    async def _signal(self, number: int) -> None:
        if (pid := await self._worker()) is not None:
            _send(pid, number)

    async def kill(self) -> None:
        await self._signal(signal.SIGKILL)

    async def term(self) -> None:
        await self._signal(signal.SIGTERM)

    async def stop(self) -> None:
        await self._signal(signal.SIGSTOP)

    async def pause(self) -> None:
        """Stop a worker, and let it go on before it counts as hung."""
        if (pid := await self._worker()) is not None:
            _send(pid, signal.SIGSTOP)
            await trio.sleep(self.luck.uniform(0.1, 1.0))
            _send(pid, signal.SIGCONT)

    async def stop_before_a_drain(self) -> None:
        """A worker hangs, and must go in the same moment."""
        await self._signal(signal.SIGSTOP)
        self.master.process.send_signal(signal.SIGHUP)

    async def pause_master(self) -> None:
        self.master.process.send_signal(signal.SIGSTOP)
        await trio.sleep(self.luck.uniform(0.1, 2.0))
        self.master.process.send_signal(signal.SIGCONT)

    async def reload(self) -> None:
        self.master.process.send_signal(signal.SIGHUP)

    async def scale(self) -> None:
        await self.master.ask("scale", to=str(self.luck.randint(2, 5)))

    async def retire(self) -> None:
        workers = (await self.master.status()).workers
        if workers:
            await self.master.ask("retire", slot=self.luck.choice(workers).slot)

    async def template(self) -> None:
        pids = [pid for one in (await self.master.status()).templates for pid in (one.pid, one.spare) if pid]
        if pids:
            _send(self.luck.choice(pids), signal.SIGKILL)

    async def resets(self) -> None:
        """Fifty clients that reset their connections, each at another moment of its request."""
        for number in range(50):
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.asker.port), 2) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"[: 1 + number % 32])
            await trio.lowlevel.checkpoint()

    async def silent(self) -> None:
        """Twenty clients that say nothing for a while."""
        socks = [socket.create_connection(("127.0.0.1", self.asker.port), 2) for _ in range(20)]
        await trio.sleep(1.0)
        for sock in socks:
            sock.close()

    def asks(self, path: str) -> None:
        """A client sends this, and waits for its end by itself."""
        self.nursery.start_soon(self.asker.ask, path, path not in ("/block", "/leave"))


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _asking(path: str) -> Callable[[Troubles], Awaitable[None]]:
    async def ask(troubles: Troubles) -> None:
        troubles.asks(path)

    return ask


ALL: dict[str, tuple[int, Callable[[Troubles], Awaitable[None]]]] = {
    "kill": (6, Troubles.kill),
    "term": (3, Troubles.term),
    "stop": (2, Troubles.stop),
    "stop before a drain": (2, Troubles.stop_before_a_drain),
    "pause": (4, Troubles.pause),
    "pause the master": (2, Troubles.pause_master),
    "reload": (4, Troubles.reload),
    "scale": (3, Troubles.scale),
    "retire": (3, Troubles.retire),
    "kill a template": (2, Troubles.template),
    "resets": (2, Troubles.resets),
    "silent": (2, Troubles.silent),
    "block": (3, _asking("/block")),
    "hang": (2, _asking("/hang")),
    "hang by a stop": (1, _asking("/stop")),
    "die": (3, _asking("/die")),
    "crash": (2, _asking("/crash")),
    "leave": (2, _asking("/leave")),
}
"""The name, how often it comes, and what it does."""
